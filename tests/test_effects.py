"""Effects by numbers known beforehand: samples, passes and gradients on small networks, and on the demo's models."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import elemental
from elemental.effects.derivatives import movement_by_alpha
from elemental.effects.directions import Directions, from_model_a, more_alpha
from elemental.effects.passes import PassMaker, step_of_pass
from elemental.effects.samples import DECODING, IMAGE, UNET, Pass, Samples, no_samples
from elemental.effects.samples_file import encode_samples, file_of, read_samples
from elemental.effects.weight_gradients import WeightGradients
from elemental.errors import CheckpointError, HostError, Stopped
from elemental.hosts.base import CheckpointRef
from elemental.hosts.standalone.host import StandaloneHost
from elemental.hosts.standalone.samplers import SAMPLERS
from elemental.images.image_request import ImageRequest
from elemental.merge.files.checkpoint import Checkpoint
from elemental.merge.files.open_models import OpenModels
from elemental.merge.files.tensor_data import HeldData
from elemental.merge.plan import Role
from elemental.modes.catalogue import MergeMode
from elemental.recipe.ratio_changes import on_the_way, with_more_alpha
from elemental.recipe.recipe import SaveDtype
from elemental.runs.effect_estimate import EffectOrder, Effects, EffectWatcher, Method, estimate_effects, schedule
from elemental.workflows import live_merge

REQUEST = ImageRequest("a red circle on blue", seed=3, steps=3, cfg=4.0, width=64, height=64)


class Held:
    """A model in memory."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def data(self, key: str) -> HeldData:
        return HeldData(self._tensors[key])


@dataclass
class Known:
    """Two linear layers, and an image that is their product: y = W2 W1 x."""

    x: Tensor
    network: nn.Sequential
    steps: int = 1
    failing: Callable[[], None] = field(default=lambda: None)

    def predict(self, step: int) -> Tensor:
        self.failing()
        result: Tensor = self.network(self.x * (step + 1))
        return result

    draw = decode = lambda self: self.network(self.x)


def make_known(dtype: torch.dtype = torch.float32) -> tuple[Known, dict[str, Tensor], dict[str, tuple[Tensor, ...]]]:
    generator = torch.Generator().manual_seed(1)
    network = nn.Sequential(nn.Linear(5, 4, bias=False), nn.Linear(4, 6, bias=False)).to(dtype).requires_grad_(False)
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator))
    moves = {f"w{i + 1}": torch.randn(p.shape, generator=generator) for i, p in enumerate(network.parameters())}
    tensors: dict[str, tuple[Tensor, ...]] = {f"w{i + 1}": (p.data,) for i, p in enumerate(network.parameters())}
    return Known(torch.randn(5, generator=generator).to(dtype), network), moves, tensors


def directions_of(moves: Mapping[str, Tensor]) -> Directions:
    zeros = {key: torch.zeros_like(move) for key, move in moves.items()}
    return Directions(dict.fromkeys(moves, (-1.0, 1.0, 0.0)), {Role.A: Held(zeros), Role.B: Held(moves)})


def known_changes(known: Known, moves: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give J d by hand."""
    w1, w2 = (parameter.float() for parameter in known.network.parameters())
    x = known.x.float()
    return {"w1": w2 @ moves["w1"] @ x, "w2": moves["w2"] @ w1 @ x}


@pytest.mark.parametrize("source", [UNET, IMAGE, DECODING])
def test_a_sample_is_the_product_of_signs_and_change(source: str) -> None:
    known, moves, tensors = make_known()
    maker = PassMaker([known.network], tensors, directions_of(moves))
    rows = torch.stack([maker.sample(known, Pass(0, number, source)) for number in range(8)])
    assert maker.keys == ("w1", "w2")
    changes = known_changes(known, moves)
    for column, key in enumerate(maker.keys):
        change = changes[key]
        # each sample is a sum of the changes with signs; found again by trying all of them
        signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * len(change))
        possible = signs @ change / math.sqrt(len(change))
        distance = (rows[:, column, None] - possible).abs().min(dim=1).values
        assert float(distance.max()) < 1e-4


def test_the_mean_square_of_samples_is_that_of_the_change() -> None:
    known, moves, tensors = make_known()
    maker = PassMaker([known.network], tensors, directions_of(moves))
    rows = torch.stack([maker.sample(known, Pass(0, number, IMAGE)) for number in range(4000)])
    changes = known_changes(known, moves)
    for column, key in enumerate(maker.keys):
        assert float(rows[:, column].square().mean()) == pytest.approx(float(changes[key].square().mean()), rel=0.1)
    both = changes["w1"] - 0.5 * changes["w2"]
    moved = rows[:, 0] - 0.5 * rows[:, 1]
    assert float(moved.square().mean()) == pytest.approx(float(both.square().mean()), rel=0.1)


def test_held_gradients_give_the_same_samples() -> None:
    known, moves, tensors = make_known()
    first, last = known.network
    known.network = nn.Sequential(first, nn.Linear(4, 5, bias=False), first, last)  # one weight is used twice
    maker = PassMaker([known.network], tensors, directions_of(moves))
    given = maker.sample(known, Pass(0, 3, IMAGE))
    size = sum(parameter.numel() * 4 for parameter in known.network.parameters())
    assert maker.hold_gradients(2 * size - 1) == 0
    assert maker.hold_gradients(2 * size) == maker.hold_gradients(None) == size
    assert torch.allclose(maker.sample(known, Pass(0, 3, IMAGE)), given, rtol=1e-4)


def test_half_precision_is_scaled_until_gradients_are_finite() -> None:
    known, moves, tensors = make_known(torch.float16)
    exact, _, exact_tensors = make_known()
    wanted = PassMaker([exact.network], exact_tensors, directions_of(moves)).sample(exact, Pass(0, 0, UNET))
    known.x *= 40  # gradients of 2**16 times as much overflow
    exact.x *= 40
    found = PassMaker([known.network], tensors, directions_of(moves)).sample(known, Pass(0, 0, UNET))
    assert torch.allclose(found, wanted * 40, rtol=1e-2)


def test_gradients_that_are_never_finite_are_an_error() -> None:
    known, moves, tensors = make_known(torch.float16)
    known.x[0] = math.inf
    with pytest.raises(HostError, match="not finite"):
        PassMaker([known.network], tensors, directions_of(moves)).sample(known, Pass(0, 0, UNET))


def test_parts_of_a_tensor_are_found_wherever_they_lie() -> None:
    packed = nn.Parameter(torch.randn(6, 4), requires_grad=False)
    single = nn.Parameter(torch.randn(3), requires_grad=False)
    network = nn.Module()
    network.packed, network.single = packed, single
    tensors = {"first": (packed.data[:2],), "turned": (packed.data[2:4].T,), "both": (packed.data[4:], single.data)}
    taken: dict[str, list[tuple[int, Tensor]]] = {}

    def take(key: str, start: int, part: Tensor) -> None:
        return taken.setdefault(key, []).append((start, part.clone()))

    with WeightGradients([network], tensors, take) as gradients:
        assert gradients.keys == {"first", "turned", "both"}
        weights = torch.arange(24.0).view(6, 4)
        torch.autograd.backward((packed * weights).sum() + (single * 7).sum())
    assert torch.equal(taken["first"][0][1], weights[:2])
    assert torch.equal(taken["turned"][0][1], weights[2:4].T)
    assert sorted((start, part.tolist()) for start, part in taken["both"]) == [
        (0, weights[4:].tolist()),
        (8, [7.0, 7.0, 7.0]),
    ]


def _fail() -> None:
    raise HostError("no")


def test_a_pass_that_runs_out_of_memory_says_so() -> None:
    def fail() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    known, moves, tensors = make_known()
    known.failing = fail
    with pytest.raises(HostError, match="use smaller images"):
        PassMaker([known.network], tensors, directions_of(moves)).sample(known, Pass(0, 0, UNET))


@pytest.mark.parametrize("how", ["done", "prediction", "stop", "file"])
def test_whatever_happens_the_networks_are_as_before(how: str) -> None:
    known, moves, tensors = make_known()
    first, second = known.network.parameters()
    first.grad = torch.ones_like(first)
    second.requires_grad_(True)
    directions = directions_of(moves)
    if how == "file":
        directions.read = lambda *_: _fail()  # type: ignore[method-assign,assignment]
    maker = PassMaker([known.network], tensors, directions, should_stop=lambda: how == "stop")
    known.failing = _fail if how == "prediction" else known.failing
    numbers = [parameter.data.clone() for parameter in known.network.parameters()]
    try:
        maker.sample(known, Pass(0, 0, UNET))
    except (HostError, Stopped):
        assert how != "done"
    assert first.grad is not None
    assert torch.equal(first.grad, torch.ones_like(first))
    assert second.grad is None
    assert (first.requires_grad, second.requires_grad) == (False, True)
    assert not any(parameter._post_accumulate_grad_hooks for parameter in (first, second))
    assert all(torch.equal(*pair) for pair in zip(numbers, (p.data for p in known.network.parameters()), strict=True))


def test_weights_made_in_inference_mode_get_gradients_if_copies_of_them_are_used() -> None:
    with torch.inference_mode():
        network = nn.Linear(2, 2).requires_grad_(False)
    taken: dict[str, Tensor] = {}
    weights = dict(network.named_parameters())
    parts = {name: [weight.detach()] for name, weight in weights.items()}
    with WeightGradients([network], parts, lambda key, _, gradient: taken.update({key: gradient.clone()})):
        nn.functional.linear(torch.ones(1, 2), weights["weight"].clone(), weights["bias"].clone()).sum().backward()  # type: ignore[no-untyped-call]
    assert {name: tuple(each.shape) for name, each in taken.items()} == {"weight": (2, 2), "bias": (2,)}
    for weight in weights.values():
        assert (weight.requires_grad, weight.grad, weight._post_accumulate_grad_hooks) == (False, None, {})


def test_weights_that_torch_refuses_cannot_be_differentiated_by() -> None:
    network = nn.Linear(2, 2).requires_grad_(False)

    def refuse(_: bool) -> Tensor:
        raise RuntimeError("no")

    network.weight.requires_grad_ = refuse  # type: ignore[method-assign, assignment]
    with (
        pytest.raises(HostError, match="cannot be differentiated: no"),
        WeightGradients([network], {}, lambda *_: None),
    ):
        pass
    assert not network.bias.requires_grad


def test_any_number_of_first_passes_is_spread_over_the_steps() -> None:
    steps = [step_of_pass(number, 16) for number in range(16)]
    assert all(0 <= step < 16 for step in steps)
    for count in (4, 8, 16):
        gaps = sorted(steps[:count])
        assert max(b - a for a, b in zip([-1, *gaps], [*gaps, 16], strict=True)) <= 2.7 * 16 / count


def test_the_first_passes_are_the_same_whatever_comes_after() -> None:
    for method in Method:
        assert schedule(3, 30, method)[: len(schedule(3, 9, method))] == schedule(3, 9, method)


def make_samples(
    numbers: Sequence[Sequence[float]],
    source: str = IMAGE,
    *,
    requests: int = 2,
    slopes: Mapping[int, float] = {},
) -> Samples:
    rows = tuple(Pass(index % requests, index // requests, source) for index in range(len(numbers)))
    return Samples(("a", "b", "c"), rows, torch.tensor(numbers), dict(slopes))


def test_effects_of_several_tensors_are_sums_and_a_root() -> None:
    samples = make_samples([[3.0, 4.0, 0.0], [1.0, -1.0, 0.0]], requests=1)
    unit = math.sqrt(2 / math.pi) / (math.sqrt(math.pi) / 2)  # the second for the mean of the root of two squares
    assert samples.effects() == pytest.approx([unit * math.sqrt(5), unit * math.sqrt(8.5), 0])
    assert samples.effect({"a": 1, "b": 1}) == pytest.approx(unit * math.sqrt(49 / 2))
    assert samples.effect({"a": 0.5, "unknown": 3}) == pytest.approx(unit * math.sqrt(5) / 2)
    assert samples.group_effects([["a", "b"], ["c"], []]) == pytest.approx([unit * math.sqrt(49 / 2), 0, 0])


def test_effects_on_several_images_are_means() -> None:
    samples = make_samples([[3.0, 4.0, 0.0], [1.0, -1.0, 0.0]], requests=2)
    # normally distributed: a single sample's mean is what the mean absolute value is, so both factors cancel
    assert samples.effects() == pytest.approx([2, 2.5, 0])
    assert samples.effect({"a": 1, "b": 1}) == pytest.approx(3.5)


def test_the_mean_of_estimates_is_that_of_effects() -> None:
    generator = torch.Generator().manual_seed(1)
    for count in (1, 2, 5):
        numbers = torch.randn(count, 4000, generator=generator)
        rows = tuple(Pass(0, number, IMAGE) for number in range(count))
        samples = Samples(tuple(map(str, range(4000))), rows, numbers, {}, shape=1.0)
        assert sum(samples.effects()) / 4000 == pytest.approx(1, abs=0.03)


def test_effects_have_the_unit_that_was_measured() -> None:
    samples = make_samples([[3.0, 4.0, 0.0], [1.0, 1.0, 0.0]], UNET, slopes={0: 70.0, 1: 10.0})
    assert samples.effect(dict.fromkeys("abc", 1.0)) == pytest.approx((70 + 10) / 2)
    assert samples.effects()[0] == pytest.approx((30 + 5) / 2)
    whole = make_samples([[3.0, 4.0, 0.0], [1.0, 1.0, 0.0]]).with_shape(0.5)
    assert whole.effects()[0] == pytest.approx(0.5 * (3 + 1) / 2 / math.sqrt(2 / math.pi))


def test_samples_are_read_as_they_were_written(tmp_path: Path) -> None:
    samples = make_samples([[3.0, 4.0, 1e-12], [1.0, 1.0, 0.0]], slopes={0: 70.0}).with_shape(0.5)
    origin = {"models": {"a": ["x", 1, 2]}, "requests": [REQUEST.to_dict()]}
    path = file_of(tmp_path, origin)
    assert path != file_of(tmp_path, {**origin, "requests": [replace(REQUEST, seed=4).to_dict()]})
    path.write_bytes(encode_samples(samples, origin))
    found, told = read_samples(path)
    assert (found.keys, found.passes, found.slopes, told) == (samples.keys, samples.passes, samples.slopes, origin)
    assert found.shape == 0.5
    assert torch.equal(found.numbers, samples.numbers)
    path.write_bytes(b"damaged")
    with pytest.raises(CheckpointError, match="no samples"):
        read_samples(path)
    assert no_samples(["a"]).effects() == [0.0]


@pytest.fixture(scope="module")
def host() -> StandaloneHost:
    return StandaloneHost()


@pytest.fixture(scope="module")
def recipe(demo_pair: tuple[Path, Path]) -> elemental.MergeRecipe:
    a, b = map(elemental.model_source, demo_pair)
    return elemental.MergeRecipe(a, b, alpha=0.25)


@pytest.fixture(scope="module")
def demo_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    from elemental.demo.checkpoint_pair import copy_pair

    return copy_pair(tmp_path_factory.mktemp("pair"))


KEYS = (
    "model.diffusion_model.input_blocks.0.0.weight",
    "model.diffusion_model.output_blocks.9.1.transformer_blocks.0.attn2.to_k.weight",
    "model.diffusion_model.out.2.bias",
    "model.diffusion_model.time_embed.2.weight",
    "cond_stage_model.transformer.text_model.final_layer_norm.weight",
)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_an_image_computed_again_is_the_same(host: StandaloneHost, demo_pair: tuple[Path, Path], sampler: str) -> None:
    host.open_model(CheckpointRef("a", demo_pair[0]))
    for cfg in (1.0, 4.0):
        trace = host.differentiator().trace(replace(REQUEST, sampler=sampler, cfg=cfg), model={})
        assert trace.steps == REQUEST.steps
        with torch.no_grad():
            pixels, decoded = trace.draw(), trace.decode()
        levels = pixels[0].round().to(torch.uint8).permute(1, 2, 0).numpy()
        assert levels.tobytes() == trace.image.image.tobytes()
        assert torch.equal(pixels, decoded)


@pytest.mark.parametrize(
    ("source", "mode"),
    [(UNET, MergeMode.WEIGHT_SUM), (IMAGE, MergeMode.WEIGHT_SUM), (UNET, MergeMode.SLERP)],
    ids=["step", "image", "step of slerp"],
)
def test_samples_of_the_demo_are_finite_differences(
    host: StandaloneHost, recipe: elemental.MergeRecipe, source: str, mode: MergeMode
) -> None:
    from elemental.effects.passes import _draw_signs
    from elemental.recipe.rules import BlockSelector, ElementSelector, Rule, RuleSet

    which = Pass(0, 1, source)
    # whole images have kinks where channel values end at 0 and 255: steps are smaller, and differences less exact
    step, tolerance = (1 / 32, 0.03) if source == UNET else (1 / 128, 0.15)
    recipe = replace(recipe, mode=mode, dtype=SaveDtype.FP32)  # rounding to fp16 would be as large as the steps
    live = host.open_model(CheckpointRef("a", Path(recipe.model_a.path)))
    with OpenModels() as models, live_merge(live, models) as merge:
        plan = models.planner(recipe).plan(recipe)
        merge.apply(recipe)
        differentiator = host.differentiator()
        movement = movement_by_alpha(plan, models.open(recipe))
        maker = PassMaker(differentiator.networks(), live.tensors(), movement)
        trace = differentiator.trace(REQUEST, model={})
        row = dict(zip(maker.keys, maker.sample(trace, which).tolist(), strict=True))

        def compute() -> Tensor:
            with torch.no_grad():
                number = step_of_pass(which.number, trace.steps)
                return trace.predict(number) if source == UNET else differentiator.trace(REQUEST, model={}).decode()

        blocks = {tensor.name.key: tensor.name.block for tensor in plan.tensors}
        for key in KEYS:
            results = []
            for alpha in (0.25 + step, 0.25 - step):
                rule = Rule(BlockSelector((blocks[key],)), ElementSelector((key,)), alpha)
                merge.apply(replace(recipe, rules=RuleSet((rule,))))
                results.append(compute())
            change = (results[0] - results[1]).double() / (2 * step)
            wanted = float((change * _draw_signs(change, which)).sum()) / math.sqrt(change.numel())
            size = float(change.square().mean().sqrt())  # of a sample; this one may be small
            assert row[key] == pytest.approx(wanted, abs=tolerance * size), key
            assert size > 0


def test_directions_follow_the_mode(recipe: elemental.MergeRecipe) -> None:
    third = replace(recipe, mode=elemental.MergeMode.ADD_DIFFERENCE, model_c=recipe.model_b)
    triple = replace(recipe, mode=elemental.MergeMode.TRIPLE_SUM, model_c=recipe.model_b, beta=0.5)
    twice = replace(triple, mode=elemental.MergeMode.SUM_TWICE)
    expected = {recipe: (-1, 1, 0), third: (0, 1, -1), triple: (-1, 1, 0), twice: (-0.5, 0.5, 0)}
    ways = {recipe: (-0.25, 0.25, 0), third: (0, 0.25, -0.25), triple: (-0.75, 0.25, 0.5)}
    for each, coefficients in expected.items():
        plan = elemental.plan_merge(each)
        assert set(more_alpha(plan).values()) == {coefficients}
        if each in ways:
            assert set(from_model_a(plan).values()) == {ways[each]}


def test_recipes_with_other_ratios_change_all_of_them(recipe: elemental.MergeRecipe) -> None:
    weights = elemental.parse_block_weights(",".join(["0.5"] * 26))
    full = replace(recipe, block_alpha=weights, rules=elemental.parse_rules("IN00:attn:0.5, OUT03::1"))
    more, half = with_more_alpha(full, 0.125), on_the_way(full, 0.5)
    assert (more.alpha, half.alpha) == (0.375, 0.125)
    assert more.block_alpha is not None
    assert set(more.block_alpha.unet) == {0.625}
    assert more.block_alpha.base == 0.625
    assert half.block_alpha is not None
    assert set(half.block_alpha.unet) == {0.25}
    assert [rule.alpha for rule in more.rules.rules] == [0.625, 1.125]
    assert [rule.alpha for rule in half.rules.rules] == [0.25, 0.5]


def test_a_mode_that_takes_no_larger_ratio_says_so(recipe: elemental.MergeRecipe) -> None:
    last = replace(recipe, mode=MergeMode.MULTIPLY_DIFFERENCE, model_c=recipe.model_b, beta=0.5, alpha=0.95)
    with pytest.raises(elemental.RecipeError, match=r"multiply-difference takes ratios up to 1: use 0\.9 at most"):
        with_more_alpha(last, 0.1)


def estimate(host: StandaloneHost, order: EffectOrder, folder: Path | None = None, **watch: object) -> Effects:
    return estimate_effects(host, order, folder=folder, watcher=EffectWatcher(**watch))  # type: ignore[arg-type]


@pytest.mark.slow
def test_passes_in_two_goes_are_those_of_one(
    host: StandaloneHost, recipe: elemental.MergeRecipe, tmp_path: Path
) -> None:
    order = EffectOrder(recipe, (REQUEST, replace(REQUEST, seed=4)), passes=3)
    once = estimate(host, order)
    first = estimate(host, replace(order, passes=2), tmp_path)
    second = estimate(host, order, tmp_path)
    assert (once.made, first.made, second.made) == (5, 4, 1)
    assert second.samples.passes == once.samples.passes
    assert second.samples.slopes == pytest.approx(once.samples.slopes, rel=1e-3)
    assert_alike(second.samples, once.samples)
    assert [path.name for path in tmp_path.iterdir()] == [second.file.name if second.file else ""]
    assert estimate(host, order, tmp_path).made == 0


def assert_alike(one: Samples, other: Samples) -> None:
    """Compare samples; what threads add in another order may differ in the last places."""
    sizes = other.numbers.square().mean(dim=1, keepdim=True).sqrt()
    assert float(((one.numbers - other.numbers).abs() / sizes.clamp(min=1e-12)).max()) < 0.05


@pytest.mark.parametrize("method", Method)
@pytest.mark.slow
def test_samples_do_not_depend_on_the_number_of_threads(
    host: StandaloneHost, recipe: elemental.MergeRecipe, method: Method
) -> None:
    request = replace(REQUEST, steps=1 if method is Method.STEPS else 2)
    order, threads = EffectOrder(recipe, (request,), passes=1, method=method), torch.get_num_threads()
    one = estimate(host, order)
    torch.set_num_threads(3 - min(threads, 2))
    try:
        other = estimate(host, order)
    finally:
        torch.set_num_threads(threads)
    assert_alike(other.samples, one.samples)


@pytest.mark.slow
def test_a_stopped_estimate_keeps_its_passes(
    host: StandaloneHost, recipe: elemental.MergeRecipe, tmp_path: Path
) -> None:
    order, texts = EffectOrder(recipe, (REQUEST,), passes=4), list[str]()

    def stop_at_the_third(_done: int, _total: int, text: str) -> None:
        texts.append(text)
        if text.startswith("pass 3"):
            raise Stopped

    with pytest.raises(Stopped, match="passes that are kept: 2"):
        estimate(host, order, tmp_path, on_progress=stop_at_the_third)
    passes = [text for text in texts if text.startswith("pass")]
    assert [*dict.fromkeys(passes)] == ["pass 1 of 4", "pass 2 of 4", "pass 3 of 4"]
    texts.clear()
    assert estimate(host, order, tmp_path, on_progress=lambda *told: texts.append(told[2])).made == 2
    assert [text for text in texts if text.startswith("pass")] == ["pass 3 of 4", "pass 4 of 4"]
    path = Path(recipe.model_a.path)
    live = host.open_model(CheckpointRef("a", path))
    with Checkpoint(path) as file:
        key = KEYS[0]
        assert torch.equal(live.tensors()[key][0].flatten(), file.tensor(key).flatten().float())


@pytest.mark.slow
def test_a_damaged_file_of_samples_is_made_anew(
    host: StandaloneHost, recipe: elemental.MergeRecipe, tmp_path: Path
) -> None:
    order = EffectOrder(recipe, (REQUEST,), passes=1)
    file = estimate(host, order, tmp_path).file
    assert file is not None
    file.write_bytes(b"{}")
    assert estimate(host, order, tmp_path).made == 2
    assert len(read_samples(file)[0].passes) == 2


def test_a_host_that_cannot_differentiate_says_so(recipe: elemental.MergeRecipe) -> None:
    from .fake_host import FakeHost

    with pytest.raises(HostError, match="cannot differentiate"):
        estimate_effects(FakeHost(lambda _: {}), EffectOrder(recipe, (REQUEST,)))


@pytest.mark.slow
def test_whole_images_in_two_goes_are_those_of_one(
    host: StandaloneHost, recipe: elemental.MergeRecipe, tmp_path: Path
) -> None:
    order = EffectOrder(recipe, (REQUEST, replace(REQUEST, seed=4)), passes=3, method=Method.WHOLE)
    once = estimate(host, order)
    first = estimate(host, replace(order, passes=2), tmp_path)
    second = estimate(host, order, tmp_path)
    assert (once.made, first.made, second.made) == (3, 2, 1)
    assert (once.generated, first.generated, second.generated) == (3, 3, 2)  # one measures the unit, once
    assert (second.samples.passes, second.samples.shape) == (once.samples.passes, first.samples.shape)
    assert second.samples.shape is not None
    assert 0 < second.samples.shape < 1
    assert_alike(second.samples, once.samples)


@pytest.mark.slow
def test_kept_graphs_change_nothing(host: StandaloneHost, recipe: elemental.MergeRecipe) -> None:
    live = host.open_model(CheckpointRef("a", Path(recipe.model_a.path)))
    differentiator = host.differentiator()
    with OpenModels() as models:
        plan = models.planner(recipe).plan(recipe)
        maker = PassMaker(differentiator.networks(), live.tensors(), Directions(more_alpha(plan), models.open(recipe)))
        trace = differentiator.trace(REQUEST, model={})
        wanted = maker.sample(trace, Pass(0, 0, IMAGE))
        with maker.differentiable():
            kept = differentiator.trace(REQUEST, model={}, room=1 << 30)
            some = differentiator.trace(REQUEST, model={}, room=kept.kept_bytes // 2)
            none = differentiator.trace(REQUEST, model={}, room=kept.kept_bytes // 4)
        assert (trace.kept_bytes, none.kept_bytes, some.kept_bytes * REQUEST.steps) == (0, 0, kept.kept_bytes)
        for each in (kept, some, none, kept):  # a second pass goes the same way
            assert each.image.image.tobytes() == trace.image.image.tobytes()
            assert torch.allclose(maker.sample(each, Pass(0, 0, IMAGE)), wanted, rtol=1e-3, atol=1e-6)
    for network in differentiator.networks():
        assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.parameters())
        assert "forward" not in vars(network)
