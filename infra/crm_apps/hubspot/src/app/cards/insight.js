/* What Hookline's endpoint answers, in the words that the card shows. */

const RULES = ['offline-rules', 'rules'];
const PRIORITIES = ['must', 'should', 'could'];

/** Of the insights that are there, the one analysed last; null where there is none. */
export function newestOf(insights) {
    const found = Object.values(insights).filter(Boolean);
    if (found.length === 0) {
        return null;
    }
    return found.reduce((first, second) => (second.analyzed_at > first.analyzed_at ? second : first));
}

export function modelOf(model) {
    return RULES.includes(model) ? 'rules, no language model' : model;
}

export function day(text) {
    return new Date(text).toLocaleDateString(undefined, { dateStyle: 'medium', timeZone: 'UTC' });
}

export function moment(text) {
    return new Date(text).toLocaleString(undefined, { dateStyle: 'medium', timeStyle: 'short' });
}

export function factorsOf(factors) {
    return factors.map((factor, index) => ({
        key: index,
        up: factor.direction === 'up',
        points: `${factor.direction === 'up' ? '+' : '−'}${factor.weight}`,
        label: factor.label,
        evidence: `${factor.evidence.field}: ${factor.evidence.value}, since ${day(factor.evidence.since)}`
    }));
}

export function requirementsOf(found) {
    const items = [...found.items].sort(
        (first, second) =>
            Number(first.status === 'superseded') - Number(second.status === 'superseded') ||
            PRIORITIES.indexOf(first.priority) - PRIORITIES.indexOf(second.priority)
    );
    return {
        items: items.map((item, index) => ({
            key: index,
            priority: item.priority,
            must: item.priority === 'must',
            superseded: item.status === 'superseded',
            text: item.text,
            evidence: [
                item.text.trim() === item.quote.trim() ? '' : `“${item.quote}”`,
                item.kind,
                sourceOf(item.source),
                day(item.said_at)
            ]
                .filter(Boolean)
                .join(' · ')
        })),
        contradictions: found.contradictions.map(
            (one) => `${one.about}: “${one.first_quote}” (${sourceOf(one.first_source)}) against “${one.second_quote}” (${sourceOf(one.second_source)})`
        ),
        questions: found.open_questions
    };
}

function sourceOf(source) {
    const [kind, ...rest] = source.split(':');
    return kind === 'field' ? rest.join(':') : `${kind} ${rest.join(':')}`;
}

export function severityTag(severity) {
    return { high: 'error', medium: 'warning' }[severity] ?? 'default';
}

export function recordUrl(context, id) {
    return `/contacts/${context.portal.id}/record/${context.crm.objectTypeId}/${encodeURIComponent(id)}`;
}
