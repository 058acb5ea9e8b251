/* The component as a browser's page can load it, on the stand-ins of modules/. Prints the script, or writes it to the file given. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import lwc from '@lwc/rollup-plugin';
import { rollup } from 'rollup';

const here = path.dirname(fileURLToPath(import.meta.url));
const component = path.join(here, '..', 'force-app', 'main', 'default', 'lwc', 'hooklineInsight', 'hooklineInsight.js');

// One engine for the component and the stand-ins, wherever each of them lies.
const engine = path.join(here, 'node_modules', '@lwc', 'engine-dom', 'dist', 'index.js');

const bundle = await rollup({
    input: path.join(here, 'main.js'),
    plugins: [
        lwc({
            rootDir: here,
            modules: [
                { name: 'lwc', path: engine },
                { name: '@lwc/engine-dom', path: engine },
                { name: 'c/hooklineInsight', path: component },
                { dir: path.join(here, 'modules') }
            ]
        })
    ],
    onwarn: (warning) => {
        throw new Error(warning.message);
    }
});
const { output } = await bundle.generate({
    format: 'iife',
    // The engine asks for it, as in a build of one's own; a browser has none.
    intro: 'const process = { env: { NODE_ENV: "production" } };'
});
const [out] = process.argv.slice(2);
if (out) {
    writeFileSync(out, output[0].code);
} else {
    process.stdout.write(output[0].code);
}
