/* The card as a browser's page can load it, on the stand-ins of test/host.jsx. Prints the script, or writes it to the file given. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';

const here = path.dirname(fileURLToPath(import.meta.url));
const host = path.join(here, 'test', 'host.jsx');

const { outputFiles } = await build({
    entryPoints: [path.join(here, 'src', 'app', 'cards', 'InsightCard.jsx')],
    alias: { '@hubspot/ui-extensions': host },
    nodePaths: [path.join(here, 'node_modules')],
    bundle: true,
    write: false,
    format: 'iife',
    target: 'es2022',
    define: { 'process.env.NODE_ENV': '"production"' }
});
const [out] = process.argv.slice(2);
if (out) {
    writeFileSync(out, outputFiles[0].contents);
} else {
    process.stdout.write(outputFiles[0].contents);
}
