import { createElement } from 'lwc';
import HooklineInsight from 'c/hooklineInsight';

const component = createElement('c-hookline-insight', { is: HooklineInsight });
component.recordId = window.record.id;
component.objectApiName = window.record.apiName;
document.getElementById('component').appendChild(component);

// What of Salesforce's Lightning Design System reaches into the component; here a shadow root would keep it out.
const slds = new CSSStyleSheet();
slds.replaceSync(`
    p { margin: 0; }
    a { color: #0176d3; }
    h3 { font-size: 13px; }
    .slds-card > header { padding: 12px 16px 8px; font-size: 16px; font-weight: 700; }
    .slds-p-horizontal_medium { padding-left: 16px; padding-right: 16px; }
    .slds-p-bottom_small { padding-bottom: 12px; }
`);
component.shadowRoot.adoptedStyleSheets = [slds, ...component.shadowRoot.adoptedStyleSheets];
