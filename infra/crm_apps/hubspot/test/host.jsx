/*
 * HubSpot's side, as far as the card needs it: its components as plain elements, and the `hubspot` object on top of two
 * functions that the page provides (`hostFetch` carries a call to the server, `hostProperties` reads the record's properties).
 * The looks are an approximation; that the card uses the real components rightly is checked against HubSpot's types (`npm run types`).
 */
import React from 'react';
import { createRoot } from 'react-dom/client';

export const hubspot = {
    extend(render) {
        const actions = {
            addAlert: (alert) => window.hostAlert(alert),
            fetchCrmObjectProperties: (names) => window.hostProperties(names)
        };
        const { context } = window.host;
        createRoot(document.getElementById('card')).render(render({ context, actions }));
    },
    async fetch(url, { method, body }) {
        const { status, text } = await window.hostFetch(String(url), method, JSON.stringify(body));
        return { ok: status < 400, status, json: async () => JSON.parse(text) };
    }
};

const GAPS = { flush: 0, xs: 4, sm: 8, md: 16, lg: 24 };
const ALIGN = { start: 'flex-start', end: 'flex-end', center: 'center', baseline: 'baseline', stretch: 'stretch' };

export const Flex = ({ direction = 'row', gap = 'flush', align, children }) => (
    <div style={{ display: 'flex', flexDirection: direction, gap: GAPS[gap], alignItems: ALIGN[align] }}>{children}</div>
);
export const Box = ({ flex, children }) => <div style={{ flex, minWidth: 0 }}>{children}</div>;
export const Divider = () => <hr />;
export const Heading = ({ children }) => <h3>{children}</h3>;
export const Text = ({ variant = 'bodytext', format = {}, children }) => (
    <div
        className={variant}
        style={{
            fontWeight: { bold: 700, demibold: 600 }[format.fontWeight],
            textDecoration: format.lineDecoration === 'strikethrough' ? 'line-through' : undefined
        }}
    >
        {children}
    </div>
);
export const Tag = ({ variant = 'default', children }) => <span className={`tag ${variant}`}>{children}</span>;
export const Tile = ({ children }) => <div className="tile">{children}</div>;
export const List = ({ children }) => (
    <ul>
        {React.Children.map(children, (child) => (
            <li>{child}</li>
        ))}
    </ul>
);
export const Link = ({ href, children }) => <a href={href}>{children}</a>;
export const Alert = ({ title, variant = 'info', children }) => (
    <div role="alert" className={`alert ${variant}`}>
        <b>{title}</b>
        <div>{children}</div>
    </div>
);
export const Button = ({ variant = 'secondary', disabled, onClick, children }) => (
    <button className={variant} aria-pressed={variant === 'primary'} disabled={disabled} onClick={onClick}>
        {children}
    </button>
);
export const LoadingSpinner = ({ label }) => <div className="microcopy">{label}</div>;
export const TextArea = ({ label, name, value, maxLength, rows, onInput }) => (
    <label className="bodytext">
        {label}
        <textarea
            name={name}
            value={value}
            maxLength={maxLength}
            rows={rows}
            onChange={(event) => onInput(event.target.value)}
        />
    </label>
);
export const ScoreCircle = ({ score }) => {
    const around = 2 * Math.PI * 26;
    const colour = score >= 70 ? '#00a38d' : score >= 40 ? '#f2a900' : '#d94c53';
    return (
        <svg width="64" height="64" role="img" aria-label={`Score ${score}`}>
            <circle cx="32" cy="32" r="26" fill="none" stroke="#eaf0f6" strokeWidth="7" />
            <circle
                cx="32"
                cy="32"
                r="26"
                fill="none"
                stroke={colour}
                strokeWidth="7"
                strokeDasharray={`${(score / 100) * around} ${around}`}
                transform="rotate(-90 32 32)"
            />
            <text x="32" y="38" textAnchor="middle">
                {score}
            </text>
        </svg>
    );
};
const THUMB = 'M2 21h4V9H2v12zM22 10c0-1.100-.9-2-2-2h-6.300l1-4.600c.1-.6-.1-1.200-.5-1.600L13.200 1 6.600 7.600C6.200 8 6 8.500 6 9v10c0 1.100.9 2 2 2h9c.8 0 1.500-.5 1.800-1.200l3-7.100c.1-.2.2-.5.2-.7v-2z';
export const Icon = ({ name }) => (
    <svg className="icon" viewBox="0 0 24 24" aria-hidden="true">
        <path d={THUMB} transform={name === 'thumbsDown' ? 'rotate(180 12 12)' : undefined} />
    </svg>
);
