import { hubspot } from '@hubspot/ui-extensions';

const TIMEOUT_MS = 10_000;

/** Hookline answered, and would not. */
export class Refused extends Error {}

/** Call our endpoint through HubSpot, which adds the portal and the user to the address and signs the whole. */
export async function ask(context, what, more = {}) {
    const base = context.variables?.HOOKLINE_API_URL;
    if (!base) {
        throw new Refused('This app was uploaded without the variable HOOKLINE_API_URL: ask your admin.');
    }
    const response = await hubspot.fetch(`${base}/cards/hubspot/${what}`, {
        method: 'POST',
        timeout: TIMEOUT_MS,
        body: { object_type: context.crm.objectTypeId, record: String(context.crm.objectId), ...more }
    });
    const answer = await response.json().catch(() => ({}));
    if (!response.ok) {
        throw new Refused([answer.detail, answer.remedy].filter(Boolean).join(' ') || `Hookline answered ${response.status}.`);
    }
    return answer;
}

/** For people. What went wrong on the way says nothing that a rep could use. */
export function failureOf(error) {
    return error instanceof Refused ? error.message : 'Hookline cannot be reached at the moment. Try again in a minute.';
}
