/*
 * Is the project's metadata what Salesforce expects? Two independent descriptions answer, both from npm:
 *   - Salesforce's own source-deploy-retrieve resolves every file to a component of a known type, in the right folder;
 *   - jsforce's schema of the Metadata API names each type's elements, which are required, and their types.
 * The schema is older than the API version that we deploy with: what came later stands in LATER, with where it is documented.
 * Prints one line a problem; ends with 1 if there was any.
 */
import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { createRequire } from 'node:module';
import { XMLParser, XMLValidator } from 'fast-xml-parser';
import { ComponentSet } from '@salesforce/source-deploy-retrieve';

const require = createRequire(import.meta.url);
const { ApiSchemas } = require('@jsforce/jsforce-node/lib/api/metadata/schema.js');

/** Elements and types newer than the schema. Source: Salesforce, "Metadata API Developer Guide" (the type's own page). */
const LATER = {
    ComponentInstance: { identifier: '?string' },
    ExternalClientApplication: {
        contactEmail: 'string',
        description: '?string',
        distributionState: 'string',
        isProtected: '?boolean',
        label: 'string'
    },
    ExtlClntAppGlobalOauthSettings: {
        callbackUrl: 'string',
        externalClientApplication: 'string',
        isConsumerSecretOptional: '?boolean',
        isIntrospectAllTokens: '?boolean',
        isPkceRequired: '?boolean',
        isSecretRequiredForRefreshToken: '?boolean',
        label: 'string',
        shouldRotateConsumerKey: '?boolean',
        shouldRotateConsumerSecret: '?boolean'
    },
    ExtlClntAppOauthSettings: {
        commaSeparatedOauthScopes: 'string',
        externalClientApplication: 'string',
        label: 'string'
    },
    FlexiPageRegion: { itemInstances: ['ItemInstance'] },
    Flow: { apiVersion: '?number', environments: ['string'] },
    FlowActionCall: { flowTransactionModel: '?string', nameSegment: '?string' },
    FlowStart: { recordTriggerType: '?string', locationX: 'number', locationY: 'number' },
    ItemInstance: { componentInstance: '?ComponentInstance' }
};
/** What every component may carry, though its own type does not list it. */
const EVERYWHERE = { fullName: '?string', '@_xmlns': '?string' };

const problems = [];

function elementsOf(type) {
    const found = {};
    for (let name = type; name; name = ApiSchemas[name]?.extends) {
        Object.assign(found, ApiSchemas[name]?.props, LATER[name]);
    }
    return Object.keys(found).length ? { ...EVERYWHERE, ...found } : null;
}

function check(value, type, where) {
    if (type === 'boolean' && !['true', 'false'].includes(value)) {
        problems.push(`${where}: "${value}" is neither true nor false`);
    } else if (type === 'number' && !/^-?\d+(\.\d+)?$/.test(value)) {
        problems.push(`${where}: "${value}" is not a number`);
    }
    const elements = ['string', 'boolean', 'number'].includes(type) ? null : elementsOf(type);
    if (elements === null) {
        return;
    }
    for (const name of Object.keys(value)) {
        if (!(name in elements)) {
            problems.push(`${where}: ${type} has no element "${name}"`);
            continue;
        }
        const declared = elements[name];
        const many = Array.isArray(declared);
        const given = Array.isArray(value[name]) ? value[name] : [value[name]];
        if (!many && given.length > 1) {
            problems.push(`${where}: "${name}" stands ${given.length} times, one is allowed`);
        }
        for (const one of given) {
            check(one, (many ? declared[0] : declared).replace(/^\?/, ''), `${where} > ${name}`);
        }
    }
    for (const [name, declared] of Object.entries(elements)) {
        if (typeof declared === 'string' && !declared.startsWith('?') && name !== 'fullName' && !(name in value)) {
            problems.push(`${where}: ${type} needs "${name}"`);
        }
    }
}

const parser = new XMLParser({ ignoreAttributes: false, parseTagValue: false, ignoreDeclaration: true });
const components = ComponentSet.fromSource('force-app').getSourceComponents().toArray();
const checked = new Set();
for (const component of components) {
    for (const one of [component, ...component.getChildren()]) {
        if (!one.xml || checked.has(one.xml)) {
            continue;
        }
        checked.add(one.xml);
        const text = readFileSync(one.xml, 'utf8');
        const valid = XMLValidator.validate(text);
        if (valid !== true) {
            problems.push(`${one.xml}: ${valid.err.msg}`);
            continue;
        }
        const [root, value] = Object.entries(parser.parse(text))[0];
        if (elementsOf(root) === null) {
            problems.push(`${one.xml}: neither description knows the type ${root}`);
        } else if (value['@_xmlns'] !== 'http://soap.sforce.com/2006/04/metadata') {
            problems.push(`${one.xml}: the namespace is not the Metadata API's`);
        } else {
            check(value, root, basename(one.xml));
        }
    }
}
for (const problem of problems) {
    console.error(problem);
}
console.log(`${checked.size} files, ${components.length} components, ${problems.length} problems`);
process.exit(problems.length || checked.size === 0 ? 1 : 0);
