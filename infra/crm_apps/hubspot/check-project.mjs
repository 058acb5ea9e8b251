/*
 * Reads the project as HubSpot's own tools do before an upload: every -hsmeta.json in its place, parsed, its variables filled
 * in from the example profile, its uid valid, its entry point there. HubSpot's JSON schemas of the configurations are served to
 * an account that is signed in and to nobody else, so they are not held against it here: `hs project upload` does.
 */
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { getAllHsProfiles, validateProfileVariables } from '@hubspot/project-parsing-lib/profiles';
import { isKnownPlatformVersion, parseProjectConfig } from '@hubspot/project-parsing-lib/projects';
import { translate } from '@hubspot/project-parsing-lib/translate';
import { validateUid } from '@hubspot/project-parsing-lib/uid';

const PROFILE = 'example';
const EXPECTED = { APPLICATION: 1, CARD: 2, WEBHOOKS: 1 };

const here = path.dirname(fileURLToPath(import.meta.url));
const problems = [];

const config = parseProjectConfig(here);
const source = path.join(here, config.srcDir);
if (!isKnownPlatformVersion(config.platformVersion)) {
    problems.push(`${config.platformVersion}: not a platform version that HubSpot's tools know`);
}

const profiles = await getAllHsProfiles(source);
if (!profiles.includes(PROFILE)) {
    problems.push(`${PROFILE}: there is no such profile`);
}
const { variables } = JSON.parse(readFileSync(path.join(source, `hsprofile.${PROFILE}.json`), 'utf8'));
problems.push(...validateProfileVariables(variables, `hsprofile.${PROFILE}.json`).errors);

const { intermediateRepresentation, skippedHsMetaFiles } = await translate(
    { projectSourceDir: source, platformVersion: config.platformVersion, accountId: 1 },
    { skipValidation: true, profile: PROFILE }
);
problems.push(...(skippedHsMetaFiles ?? []).map((one) => `${JSON.stringify(one)}: skipped`));

const nodes = Object.values(intermediateRepresentation.intermediateNodesIndexedByUid);
const counts = {};
for (const node of nodes) {
    counts[node.componentType] = (counts[node.componentType] ?? 0) + 1;
    const wrong = validateUid(node.uid);
    if (wrong) {
        problems.push(`${node.uid}: ${wrong}`);
    }
    if (JSON.stringify(node.config).includes('${')) {
        problems.push(`${node.uid}: a variable is left`);
    }
    const entry = node.config?.entrypoint;
    if (entry && !existsSync(path.join(source, entry))) {
        problems.push(`${node.uid}: ${entry} is not there`);
    }
}
for (const [type, wanted] of Object.entries(EXPECTED)) {
    if (counts[type] !== wanted) {
        problems.push(`${type}: ${counts[type] ?? 0} instead of ${wanted} (found ${JSON.stringify(counts)})`);
    }
}

console.log(JSON.stringify({ components: counts, problems }));
process.exitCode = problems.length ? 1 : 0;
