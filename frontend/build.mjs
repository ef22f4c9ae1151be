// Builds cloudops/static/dist, which is committed. The output depends on the sources and the pinned packages only.
import { build } from "esbuild";
import { copyFile, mkdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const out = join(here, "..", "cloudops", "static", "dist");

// Minifying drops the notices of the parts, so that they are named here and their licences shipped beside the bundles.
const notice = "/*! CloudOps. Contains htmx (0BSD), Idiomorph (0BSD), uPlot (MIT) and, in the console bundle, noVNC (MPL 2.0).\n"
  + "    Licences: licenses/ beside this file. noVNC's source: https://github.com/novnc/noVNC, version 1.7.0. */";

const common = {
  absWorkingDir: here,
  bundle: true,
  minify: true,
  legalComments: "none",
  charset: "utf8",
  target: ["chrome123", "firefox121", "safari17.5"],
  logLevel: "warning",
  banner: { js: notice, css: notice },
};

const licenses = {
  "novnc.txt": "@novnc/novnc/LICENSE.txt",
  "novnc-authors.txt": "@novnc/novnc/AUTHORS",
  "htmx.txt": "htmx.org/LICENSE",
  "idiomorph.txt": "idiomorph/LICENSE",
  "uplot.txt": "uplot/LICENSE",
};

await rm(out, { recursive: true, force: true });
await mkdir(join(out, "licenses"), { recursive: true });

// Before first paint: a classic, blocking script, hence no module.
await build({ ...common, entryPoints: ["src/theme.js"], outdir: out, format: "iife" });
await build({
  ...common,
  entryPoints: ["src/app.js", "src/console.js"],
  outdir: out,
  format: "esm",
  splitting: true,
  chunkNames: "chunk-[name]-[hash]",
});
await build({ ...common, entryPoints: ["src/app.css", "src/console.css"], outdir: out });

for (const [name, source] of Object.entries(licenses)) {
  await copyFile(join(here, "node_modules", source), join(out, "licenses", name));
}
