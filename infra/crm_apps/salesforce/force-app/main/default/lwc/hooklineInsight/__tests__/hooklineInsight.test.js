import { createElement } from 'lwc';
import HooklineInsight from 'c/hooklineInsight';
import { getRecord, notifyRecordUpdateAvailable, updateRecord } from 'lightning/uiRecordApi';

const LEAD = require('./data/lead.json');

function show() {
    const element = createElement('c-hookline-insight', { is: HooklineInsight });
    element.recordId = LEAD.id;
    element.objectApiName = 'Lead';
    document.body.appendChild(element);
    return element;
}

const settled = () => new Promise((resolve) => setTimeout(resolve, 0));
const texts = (element, selector) =>
    [...element.shadowRoot.querySelectorAll(selector)].map((found) => found.textContent.replace(/\s+/g, ' ').trim());
const changed = (values) => ({
    ...LEAD,
    fields: {
        ...LEAD.fields,
        ...Object.fromEntries(Object.entries(values).map(([name, value]) => [name, { displayValue: null, value }]))
    }
});

describe('c-hookline-insight', () => {
    afterEach(() => {
        while (document.body.firstChild) {
            document.body.removeChild(document.body.firstChild);
        }
        jest.clearAllMocks();
    });

    it('asks for the fields of the object whose page it stands on', async () => {
        show();
        await settled();
        const { recordId, optionalFields } = getRecord.getLastConfig();
        expect(recordId).toBe(LEAD.id);
        expect(optionalFields).toContain('Lead.Hookline_Score__c');
        expect(optionalFields).toHaveLength(Object.keys(LEAD.fields).length);
    });

    it('shows score, reasons with their evidence, what changed, the next step and who says so', async () => {
        const element = show();
        getRecord.emit(LEAD);
        await settled();
        expect(texts(element, '.letter')).toEqual(['B']);
        expect(texts(element, '.score')).toEqual(['78']);
        expect(texts(element, '.points')).toEqual(['+14', '+9', '−6', '']);
        expect(texts(element, '.evidence')[0]).toBe('Title, since 2026-11-02');
        expect(texts(element, '.why li')[3]).toBe('something else entirely');
        expect(texts(element, '.changes li')).toEqual(['Title: Sales Manager → VP of Sales']);
        expect(texts(element, '.next p')[0]).toContain('Offer two dates');
        expect(texts(element, '.requirements li')[0]).toContain('Single sign-on is a must');
        expect(texts(element, '.questions li')).toEqual(['Which identity provider do you use?']);
        expect(texts(element, '.quality .severity')).toEqual(['High', 'Low']);
        expect(texts(element, '.source')[0]).toContain('rules, no language model');
    });

    it('tells what speaks against from what speaks for', async () => {
        const element = show();
        getRecord.emit(LEAD);
        await settled();
        const directions = [...element.shadowRoot.querySelectorAll('.why li')].map((found) => found.dataset.direction);
        expect(directions.slice(0, 3)).toEqual(['for', 'for', 'against']);
    });

    it('links a likely duplicate, and never an address made of a text', async () => {
        const element = show();
        getRecord.emit(LEAD);
        await settled();
        expect(element.shadowRoot.querySelector('.duplicates a').getAttribute('href')).toBe('/00QWs000001abcEMAQ');
        getRecord.emit(changed({ Hookline_Duplicates__c: 'javascript:alert(1) (97%): same e-mail' }));
        await settled();
        expect(element.shadowRoot.querySelector('.duplicates a')).toBeNull();
    });

    it('says that a record has not been analysed yet, and what to do if that stays so', async () => {
        const element = show();
        getRecord.emit({ ...LEAD, fields: {} });
        await settled();
        expect(texts(element, '.waiting')[0]).toContain('Not analysed yet');
        expect(texts(element, '.waiting')[0]).toContain('permission set');
    });

    it('shows no score where there is not enough data, but the summary that says so', async () => {
        const element = show();
        getRecord.emit(
            changed({ Hookline_Score__c: null, Hookline_Grade__c: null, Hookline_Summary__c: 'Not enough data for a score yet.' })
        );
        await settled();
        expect(element.shadowRoot.querySelector('.grade')).toBeNull();
        expect(texts(element, '.summary')).toEqual(['Not enough data for a score yet.']);
    });

    it('says why the record cannot be read', async () => {
        const element = show();
        getRecord.error({ message: 'You do not have access' });
        await settled();
        expect(texts(element, '.failure')[0]).toContain('You do not have access');
    });

    it('writes the thumb, and nothing but the fields of the feedback', async () => {
        updateRecord.mockResolvedValue({});
        const element = show();
        getRecord.emit(LEAD);
        await settled();
        element.shadowRoot.querySelector('.up').click();
        await settled();
        expect(updateRecord).toHaveBeenCalledWith({
            fields: { Id: LEAD.id, Hookline_Feedback__c: 'up', Hookline_Feedback_Note__c: '' }
        });
        expect(notifyRecordUpdateAvailable).toHaveBeenCalledWith([{ recordId: LEAD.id }]);
        expect(element.shadowRoot.querySelector('.up').variant).toBe('brand');
    });

    it('asks what was wrong after a thumb down, and sends it', async () => {
        updateRecord.mockResolvedValue({});
        const element = show();
        getRecord.emit(LEAD);
        await settled();
        expect(element.shadowRoot.querySelector('lightning-textarea')).toBeNull();
        element.shadowRoot.querySelector('.down').click();
        await settled();
        const area = element.shadowRoot.querySelector('lightning-textarea');
        area.dispatchEvent(new CustomEvent('change', { detail: { value: 'She left the company.' } }));
        element.shadowRoot.querySelector('.send').click();
        await settled();
        expect(updateRecord).toHaveBeenLastCalledWith({
            fields: {
                Id: LEAD.id,
                Hookline_Feedback__c: 'down',
                Hookline_Feedback_Note__c: 'She left the company.'
            }
        });
    });

    it('tells the rep when the feedback was refused, and leaves the thumb as it was', async () => {
        updateRecord.mockRejectedValue({ body: { message: 'insufficient access' } });
        const element = show();
        const told = jest.fn();
        element.addEventListener('lightning__showtoast', told);
        getRecord.emit(LEAD);
        await settled();
        element.shadowRoot.querySelector('.up').click();
        await settled();
        expect(told.mock.calls[0][0].detail.message).toContain('insufficient access');
        expect(element.shadowRoot.querySelector('.up').variant).toBe('border-filled');
    });
});
