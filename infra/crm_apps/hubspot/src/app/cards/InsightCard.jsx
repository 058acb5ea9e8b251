import React, { useCallback, useEffect, useState } from 'react';
import {
    Alert,
    Box,
    Button,
    Divider,
    Flex,
    Heading,
    Icon,
    Link,
    List,
    LoadingSpinner,
    ScoreCircle,
    Tag,
    Text,
    TextArea,
    Tile,
    hubspot
} from '@hubspot/ui-extensions';
import { ask, failureOf } from './ask.js';
import { day, factorsOf, modelOf, moment, newestOf, recordUrl, requirementsOf, severityTag } from './insight.js';

/*
 * What Hookline found out about the record that is open. HubSpot calls our endpoint for this card and signs the call; the
 * card itself holds no key. The two thumbs are written by Hookline into the record's own properties.
 */

hubspot.extend(({ context, actions }) => <InsightCard context={context} actions={actions} />);

const VOTE = 'hookline_feedback';
const NOTE = 'hookline_feedback_note';

export function InsightCard({ context, actions }) {
    const [insights, setInsights] = useState(/** @type {Record<string, any> | null} */ (null));
    const [failure, setFailure] = useState('');

    const load = useCallback(async () => {
        setFailure('');
        try {
            setInsights((await ask(context, 'insight')).insights);
        } catch (error) {
            setFailure(failureOf(error));
        }
    }, [context]);

    useEffect(() => {
        load();
    }, [load]);

    if (failure) {
        return (
            <Flex direction="column" gap="sm">
                <Alert title="The insight could not be read" variant="warning">
                    {failure}
                </Alert>
                <Button onClick={load} size="sm">
                    Try again
                </Button>
            </Flex>
        );
    }
    if (insights === null) {
        return <LoadingSpinner label="Reading the insight" showLabel />;
    }
    const newest = newestOf(insights);
    if (newest === null) {
        return (
            <Alert title="Not analysed yet" variant="info">
                Hookline looks at a record when it changes, usually within a minute.
            </Alert>
        );
    }
    const { lead_intel: lead, requirements: asked, data_quality: quality } = insights;
    return (
        <Flex direction="column" gap="md">
            {lead ? <Lead lead={lead.payload} /> : null}
            {asked ? <Requirements found={requirementsOf(asked.payload)} /> : null}
            {quality ? <Quality found={quality.payload} context={context} /> : null}
            <Divider />
            <Feedback context={context} actions={actions} />
            <Text variant="microcopy">
                {`Analysed ${moment(newest.analyzed_at)} · ${modelOf(newest.model)} · version ${newest.version}`}
            </Text>
        </Flex>
    );
}

function Lead({ lead }) {
    return (
        <Flex direction="column" gap="md">
            {lead.status === 'scored' ? (
                <Flex direction="row" gap="md" align="center">
                    <Box flex="none">
                        <ScoreCircle score={lead.score} />
                    </Box>
                    <Box flex={1}>
                        <Flex direction="column" gap="xs">
                            <Flex direction="row">
                                <Tag variant={lead.score >= 60 ? 'success' : lead.score >= 40 ? 'default' : 'warning'}>
                                    {`Grade ${lead.grade}`}
                                </Tag>
                            </Flex>
                            <Text>{lead.summary}</Text>
                        </Flex>
                    </Box>
                </Flex>
            ) : (
                <Alert title="Not enough data for a score yet" variant="info">
                    {[lead.missing.length ? `Most helpful would be: ${lead.missing.join(', ')}.` : '', lead.summary]
                        .filter(Boolean)
                        .join(' ')}
                </Alert>
            )}
            {lead.next_action ? (
                <Tile compact>
                    <Flex direction="column" gap="flush">
                        <Text format={{ fontWeight: 'bold' }}>Next step</Text>
                        <Text>{lead.next_action.text}</Text>
                        <Text variant="microcopy">
                            {[`by ${day(lead.next_action.due)}`, lead.next_action.why].filter(Boolean).join(' · ')}
                        </Text>
                    </Flex>
                </Tile>
            ) : null}
            {lead.changes.length ? (
                <Section title="What changed">
                    <Lines lines={lead.changes} />
                </Section>
            ) : null}
            {lead.factors.length ? (
                <Section title="Why">
                    {factorsOf(lead.factors).map((factor) => (
                        <Row key={factor.key} tag={factor.points} variant={factor.up ? 'success' : 'error'}>
                            <Text>{factor.label}</Text>
                            <Text variant="microcopy">{factor.evidence}</Text>
                        </Row>
                    ))}
                </Section>
            ) : null}
        </Flex>
    );
}

function Requirements({ found }) {
    if (!found.items.length && !found.contradictions.length && !found.questions.length) {
        return null;
    }
    return (
        <Flex direction="column" gap="md">
            {found.items.length ? (
                <Section title="What the customer asked for">
                    {found.items.map((item) => (
                        <Row key={item.key} tag={item.priority} variant={item.must ? 'warning' : 'default'}>
                            <Text format={{ lineDecoration: item.superseded ? 'strikethrough' : 'none' }}>{item.text}</Text>
                            <Text variant="microcopy">{item.evidence}</Text>
                        </Row>
                    ))}
                </Section>
            ) : null}
            {found.contradictions.length ? (
                <Section title="Contradictions">
                    <Lines lines={found.contradictions} />
                </Section>
            ) : null}
            {found.questions.length ? (
                <Section title="To ask">
                    <Lines lines={found.questions} />
                </Section>
            ) : null}
        </Flex>
    );
}

function Quality({ found, context }) {
    return (
        <Flex direction="column" gap="md">
            {found.defects.length ? (
                <Section title={`Data to mend (health ${found.health} of 100)`}>
                    {found.defects.map((defect) => (
                        <Row
                            key={`${defect.field} ${defect.kind} ${defect.message}`}
                            tag={defect.severity}
                            variant={severityTag(defect.severity)}
                        >
                            <Text>{defect.message}</Text>
                            <Text variant="microcopy">
                                {`${defect.field}, ${defect.kind}${defect.proposed ? ` → ${defect.proposed}` : ''}`}
                            </Text>
                        </Row>
                    ))}
                </Section>
            ) : null}
            {found.duplicates.length ? (
                <Section title="Likely duplicates">
                    {found.duplicates.map((one) => (
                        <Row key={one.id} tag={`${Math.round(one.probability * 100)}%`} variant="info">
                            <Link href={recordUrl(context, one.id)}>{`Record ${one.id}`}</Link>
                            <Text variant="microcopy">{one.evidence.join(', ')}</Text>
                        </Row>
                    ))}
                </Section>
            ) : null}
        </Flex>
    );
}

function Feedback({ context, actions }) {
    const [vote, setVote] = useState('');
    const [note, setNote] = useState('');
    const [saving, setSaving] = useState(false);
    const [told, setTold] = useState('');

    useEffect(() => {
        // Without the right to read the properties the thumbs still work; they only do not show what was chosen before.
        actions.fetchCrmObjectProperties([VOTE, NOTE]).then(
            (found) => {
                setVote(found?.[VOTE] ?? '');
                setNote(found?.[NOTE] ?? '');
            },
            () => undefined
        );
    }, [actions]);

    const save = async (chosen, text) => {
        setSaving(true);
        setTold('');
        try {
            await ask(context, 'feedback', { vote: chosen, note: text });
            setVote(chosen);
            setNote(text);
            setTold(chosen === 'up' || text ? 'Saved. Thank you.' : '');
        } catch (error) {
            actions.addAlert({ type: 'danger', title: 'Your feedback was not saved', message: failureOf(error) });
        } finally {
            setSaving(false);
        }
    };

    return (
        <Flex direction="column" gap="sm">
            <Flex direction="row" gap="sm" align="center">
                <Text format={{ fontWeight: 'demibold' }}>Helpful?</Text>
                <Button
                    size="xs"
                    variant={vote === 'up' ? 'primary' : 'secondary'}
                    disabled={saving}
                    onClick={() => save('up', '')}
                >
                    <Icon name="thumbsUp" /> Yes
                </Button>
                <Button
                    size="xs"
                    variant={vote === 'down' ? 'primary' : 'secondary'}
                    disabled={saving}
                    onClick={() => save('down', note)}
                >
                    <Icon name="thumbsDown" /> No
                </Button>
                {told ? <Text variant="microcopy">{told}</Text> : null}
            </Flex>
            {vote === 'down' ? (
                <Flex direction="column" gap="xs">
                    <TextArea
                        name="hookline-note"
                        label="What should it have said?"
                        value={note}
                        maxLength={2000}
                        rows={2}
                        onInput={setNote}
                    />
                    <Flex direction="row">
                        <Button size="xs" disabled={saving} onClick={() => save('down', note)}>
                            Send
                        </Button>
                    </Flex>
                </Flex>
            ) : null}
        </Flex>
    );
}

function Section({ title, children }) {
    return (
        <Flex direction="column" gap="xs">
            <Heading>{title}</Heading>
            {children}
        </Flex>
    );
}

function Row({ tag, variant, children }) {
    return (
        <Flex direction="row" gap="sm" align="start">
            <Box flex="none">
                <Tag variant={variant}>{tag}</Tag>
            </Box>
            <Box flex={1}>
                <Flex direction="column" gap="flush">
                    {children}
                </Flex>
            </Box>
        </Flex>
    );
}

function Lines({ lines }) {
    return (
        <List variant="unordered-styled">
            {lines.map((line) => (
                <Text key={line}>{line}</Text>
            ))}
        </List>
    );
}
