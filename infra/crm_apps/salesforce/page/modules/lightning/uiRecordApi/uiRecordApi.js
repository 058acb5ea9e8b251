/*
 * Salesforce's data service, as far as the component uses it, over `window.record`: what a page would have cached of the
 * record. It refuses a field that nobody asked for, and writes into the same object.
 */

const listeners = new Set();

export class getRecord {
    constructor(give) {
        this.give = give;
    }

    connect() {
        listeners.add(this);
    }

    disconnect() {
        listeners.delete(this);
    }

    update(config) {
        this.config = config;
        this.refresh();
    }

    refresh() {
        const { recordId, optionalFields } = this.config ?? {};
        if (recordId !== window.record.id || !optionalFields) {
            return;
        }
        const prefix = `${window.record.apiName}.`;
        const names = optionalFields.map((name) => name.slice(prefix.length));
        const fields = Object.fromEntries(names.map((name) => [name, { displayValue: null, value: window.record.fields[name] ?? null }]));
        this.give({ data: { id: recordId, apiName: window.record.apiName, fields }, error: undefined });
    }
}

export async function updateRecord({ fields }) {
    const { Id, ...rest } = fields;
    await window.hostSave(Id, rest);
    Object.assign(window.record.fields, rest);
}

export async function notifyRecordUpdateAvailable() {
    for (const each of listeners) {
        each.refresh();
    }
}
