/*
 * Hookline writes lists as lines of text, one item each, so that they read well wherever the field is shown. Here they
 * become lists again. A line that looks different from what is expected is shown as it is, never dropped.
 */

const FACTOR = /^([+−-])(\d+) (.*?)(?: \(([^()]*, since \d{4}-\d{2}-\d{2})\))?$/u;
const DEFECT = /^(High|Medium|Low): (.*)$/u;
const SHARE = / \((\d+%)\): /u;

/** Non-empty lines with a key each. */
export function linesOf(text) {
    return (text ?? '')
        .split('\n')
        .map((line) => line.trim())
        .filter((line) => line !== '')
        .map((line, index) => ({ key: `${index}`, text: line.replace(/^• /u, '') }));
}

/** `+12 Job title: VP Sales (Title, since 2026-11-02)`: points, reason, evidence, and whether it speaks for or against. */
export function factorsOf(text) {
    return linesOf(text).map(({ key, text: line }) => {
        const found = FACTOR.exec(line);
        if (found === null) {
            return { key, points: '', reason: line, evidence: '', direction: 'for', style: 'points' };
        }
        const up = found[1] === '+';
        return {
            key,
            points: `${up ? '+' : '−'}${found[2]}`,
            reason: found[3],
            evidence: found[4] ?? '',
            direction: up ? 'for' : 'against',
            style: up ? 'points points_for' : 'points points_against'
        };
    });
}

/** `High: The e-mail address is not valid (Email, malformed) → jo@x.example`: severity and what to mend. */
export function defectsOf(text) {
    return linesOf(text).map(({ key, text: line }) => {
        const found = DEFECT.exec(line);
        return found === null
            ? { key, severity: '', text: line, style: 'severity' }
            : { key, severity: found[1], text: found[2], style: `severity severity_${found[1].toLowerCase()}` };
    });
}

/** `00Q...AAA (97%): same e-mail`: the other record's address, and what speaks for it. */
export function duplicatesOf(text) {
    return linesOf(text).map(({ key, text: line }) => {
        const share = SHARE.exec(line);
        if (share === null) {
            return { key, id: '', url: '', share: '', evidence: line };
        }
        const id = line.slice(0, share.index);
        const known = /^[a-zA-Z0-9]{15,18}$/u.test(id);
        return {
            key,
            id,
            url: known ? `/${id}` : '',
            share: share[1],
            evidence: line.slice(share.index + share[0].length)
        };
    });
}
