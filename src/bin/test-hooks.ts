// Loaded before each test file of `bento fn test`: the names that functions and their tests import are Bento's own, so
// that a folder needs no node_modules for its tests.

import { registerHooks } from "node:module";

const MODULES: Readonly<Record<string, string>> = {
  "bento/testing": new URL("../client/author/testing.ts", import.meta.url).href,
  "bento/function": new URL("../guest/function.ts", import.meta.url).href,
};

registerHooks({
  resolve(specifier, context, next) {
    const url = Object.hasOwn(MODULES, specifier) ? MODULES[specifier] : undefined;
    return url === undefined ? next(specifier, context) : { url, shortCircuit: true };
  },
});
