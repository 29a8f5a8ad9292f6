"""CLIP's tokens: known numbers, the numbers of transformers' CLIPTokenizer, rows of 77."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from elemental.errors import HostError
from elemental.hosts.standalone import clip_tokenizer
from elemental.hosts.standalone.clip_tokenizer import CONTEXT, END, START, tokenize

pytest.importorskip("tokenizers")

MERGES = Path(clip_tokenizer.__file__).with_name("clip_bpe_merges.txt.gz")

# fmt: off
# The same from transformers 5.24, from transformers 4.30.2 with ftfy (as in the WebUI) and from OpenAI's tokenizer.
KNOWN: dict[str, list[int]] = {
    "": [],
    "a red circle on blue": [320, 736, 7117, 525, 1746],
    "A Photo of an Astronaut, 8K UHD, f/1.4": [
        320, 1125, 539, 550, 18376, 267, 279, 330, 84, 4414, 267, 325, 270, 272, 269, 275],
    "masterpiece, best quality, 1girl, solo, (blue eyes:1.2), [long hair]": [
        12066, 267, 949, 3027, 267, 272, 1611, 267, 5797, 267, 263, 1746, 3095, 281, 272, 269, 273, 2361, 314, 1538,
        2225, 316],
    "lowres, bad anatomy, bad hands, (worst quality, low quality:1.4)": [
        1049, 934, 267, 2103, 15376, 267, 2103, 3500, 267, 263, 5719, 3027, 267, 1042, 3027, 281, 272, 269, 275, 264],
    "<lora:detail_tweaker:0.7> score_9, score_8_up": [
        283, 2179, 320, 281, 7657, 318, 18365, 3074, 281, 271, 269, 278, 285, 4431, 318, 280, 267, 4431, 318, 279, 318,
        705],
    r"\(text\) {a|b} _under_score_": [
        59, 263, 4160, 59, 264, 346, 320, 347, 321, 348, 318, 1798, 318, 4431, 318],
    "don't IT'S they'll we've I'm she'd you're": [
        847, 713, 585, 568, 889, 1342, 649, 1200, 328, 880, 1043, 1896, 592, 982],
    "'s ''s \"'s\" '": [568, 8445, 338, 31065, 338, 257, 262],
    "2024-01-01, 3.14, 100%, 1/2": [
        273, 271, 273, 275, 268, 271, 272, 268, 271, 272, 267, 274, 269, 272, 275, 267, 272, 271, 271, 14505, 272, 270,
        273],
    "!!! ... ((( ))) -_- ^_^": [995, 678, 33287, 18305, 27227, 15995],
    "C++ & C# @ http://a.b/c?d=e": [
        322, 19056, 261, 322, 258, 287, 15066, 12441, 320, 269, 321, 270, 322, 286, 323, 284, 324],
    "  a\tcat\r\n\u3000on\u00a0a \u2003mat  ": [320, 2368, 525, 320, 9063],
    "café naïve Zürich São Ångström": [15304, 1097, 35689, 563, 89, 6522, 4021, 45911, 23176, 10352, 807, 7255, 332],
    "e\u0301cole \u212bngstro\u0308m": [3459, 8166, 23176, 10352, 807, 7255, 332],  # as one sign each: NFC
    "猫, 東京の女の子": [163, 234, 360, 267, 48338, 21078, 105, 21575, 29290, 111, 21575, 35751, 494],
    "Привет, мир": [26302, 16370, 29503, 110, 22176, 141, 480, 267, 38018, 16701, 141, 478],
    "\N{CAT FACE} ❤️ \N{WOMAN}\u200d\N{ARTIST PALETTE}": [22979, 1752, 26304, 13461],
    "½ ² Ⅻ ٣": [33613, 41175, 158, 227, 375, 149, 352],
    "a</w> Ġ": [320, 34308, 342, 285, 128, 350],
    "jekyll and supercalifragilisticexpialidocious": [
        49405, 537, 1642, 2857, 13093, 2076, 5868, 26850, 835, 639, 38466],
    "a <|endoftext|> b": [320, END, 321],
}
# fmt: on

# From transformers 5.24. The WebUI repairs texts with ftfy: to "a & b 's", "it's" and ",".
NOT_AS_THE_WEBUI: dict[str, list[int]] = {
    "a &amp; b &#39;s": [320, 261, 6259, 282, 321, 5, 258, 274, 280, 282, 338],
    "it\N{RIGHT SINGLE QUOTATION MARK}s": [585, 728, 503, 338],
    "\N{FULLWIDTH COMMA}": [171, 120, 490],
}

# fmt: off
TAGS = [
    "masterpiece", "best quality", "ultra-detailed", "8k", "1girl", "long hair", "Blue Eyes", "looking at viewer",
    "cherry blossoms", "by Greg Rutkowski", "35mm photo", "f/1.4", "ISO 100", "HDR", "jpeg artifacts", "BREAK",
    "red_hair", "score_8_up", ":d", "^_^", ">_<", "don't look", "IT'S", "van Gogh's starry night", "they'll", "1/2",
    "3.14e-10", "100%", "C++", "http://a.b/c?d=e", "&amp;", "&lt;b&gt;", "<br>", "#ff0000", "!?!", "...", "''",
    "\"'s\"", "((", "))", "\\", "||", "</w>", "antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaa", "café",
    "Zürich", "e\u0301cole", "straße", "İstanbul", "ΟΔΟΣ", "Київ", "東京", "女の子", "中文", "한국어", "ไทย", "हिन्दी",
    "العربية", "❤️", "★", "\N{CAT FACE}", "½", "Ⅻ", "“quoted”", "it\u2019s", "\uff08全角\uff09", "\uff11\uff21", "…",
    "zero\u200bwidth", "\ufeff", "\x00",
]
# fmt: on
FORMS = ["{}", "{}", "{}", "({}:1.2)", "(({}))", "[{}]", "[{}:0.5]", "<lora:{}:0.7>", "\\({}\\)", "{{{}}}", "__{}__"]
GAPS = [", ", ", ", ", ", " ", "", ",", "\n", "\r\n", "\t", "\u00a0", "\u3000", "\u2028", "\x0b", "\x85"]


def prompt(random: random.Random) -> str:
    """Make up a prompt: of tags, at times of far more than 75 tokens; one in three of any ASCII characters."""
    if random.random() < 1 / 3:
        return "".join(chr(random.randint(32, 126)) for _ in range(random.randint(0, 60)))
    count = random.choice([1, 2, 5, 10, 60])
    text = "".join(random.choice(FORMS).format(random.choice(TAGS)) + random.choice(GAPS) for _ in range(count))
    return random.choice([text, text, text.upper(), text.title()])


def words(text: str) -> list[int]:
    """Give the tokens of a text without starts, ends and what fills the last row."""
    rows = tokenize(text, pad=-1)
    return [token for row in rows for token in row[1 : (*row, -1).index(-1) - 1]]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], list[int]]:
    """Transformers' tokenizer, from the same merges and a vocabulary that is numbered here."""
    transformers = pytest.importorskip("transformers", reason="transformers has the tokenizer to compare with")
    folder = tmp_path_factory.mktemp("clip")
    merges = gzip.decompress(MERGES.read_bytes()).decode()
    (folder / "vocab.json").write_text(json.dumps(vocabulary(merges)), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(folder, local_files_only=True)
    return lambda text: list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def vocabulary(merges: str) -> dict[str, int]:
    """Number CLIP's tokens as clip/simple_tokenizer.py of github.com/openai/CLIP does."""
    shown = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = [chr(byte) for byte in shown] + [chr(0x100 + number) for number in range(0x100 - len(shown))]
    made = [line.replace(" ", "") for line in merges.split("\n")[:-1]]
    tokens = [*letters, *(letter + "</w>" for letter in letters), *made, "<|startoftext|>", "<|endoftext|>"]
    return {token: number for number, token in enumerate(tokens)}


@pytest.mark.parametrize("text", KNOWN)
def test_known_prompts(text: str) -> None:
    assert words(text) == KNOWN[text]


@pytest.mark.parametrize("text", NOT_AS_THE_WEBUI)
def test_texts_that_the_webui_repairs_are_taken_as_they_are(text: str) -> None:
    assert words(text) == NOT_AS_THE_WEBUI[text]


@pytest.mark.slow
def test_as_transformers(reference: Callable[[str], list[int]]) -> None:
    source = random.Random(0)
    prompts = {prompt(source) for _ in range(1200)}
    assert len(prompts) > 1000
    assert [text for text in prompts if words(text) != reference(text)] == []


def test_all_of_the_vocabulary() -> None:
    text = gzip.decompress(MERGES.read_bytes())
    assert hashlib.sha256(text).hexdigest() == "d308b7377a8ceaa9707a21614fe8c831b9196e197b7aeb69833359362907af02"
    assert vocabulary(text.decode()) == clip_tokenizer._tokenizer().get_vocab()
    assert len(vocabulary(text.decode())) == END + 1


def test_one_row() -> None:
    assert tokenize("") == [[START, *[END] * 76]]
    assert tokenize("", pad=0) == [[START, END, *[0] * 75]]
    assert tokenize("circle " * 75) == [[START, *[7117] * 75, END]]
    assert tokenize("a red circle", pad=0) == [[START, 320, 736, 7117, END, *[0] * 72]]


def test_long_texts_take_several_rows() -> None:
    rows = tokenize("circle " * 76, pad=0)
    assert rows == [[START, *[7117] * 75, END], [START, 7117, END, *[0] * 74]]
    rows = tokenize("a red circle, " * 1000)
    assert {len(row) for row in rows} == {CONTEXT}
    assert len(rows) == 54  # 4000 tokens
    assert [token for row in rows for token in row[1:-1]][:4000] == [320, 736, 7117, 267] * 1000


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    module = load_again()  # loads without it
    with pytest.raises(HostError, match=r'pip install "sd-webui-elemental\[standalone\]"'):
        module.tokenize("a red circle")


def load_again() -> ModuleType:
    """Load the module a second time, under another name."""
    spec = importlib.util.spec_from_file_location(f"{clip_tokenizer.__name__}_again", clip_tokenizer.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
