// Rules for the page's script. There is no package.json: tools/checks.py runs ESLint through npx, with versions pinned
// there, and the packages named here are found beside the ESLint that is running.
import {realpathSync} from "node:fs";
import {createRequire} from "node:module";

const require = createRequire(realpathSync(process.argv[1]));
const js = require("@eslint/js");
const globals = require("globals");

export default [
    js.configs.recommended,
    {
        files: ["javascript/**/*.js"],
        languageOptions: {ecmaVersion: 2022, sourceType: "script", globals: globals.browser},
        linterOptions: {reportUnusedDisableDirectives: "error"},
        rules: {eqeqeq: "error", "no-var": "error", "prefer-const": "error"},
    },
];
