import { LightningElement, api, wire } from 'lwc';
import { getRecord, notifyRecordUpdateAvailable, updateRecord } from 'lightning/uiRecordApi';
import { ShowToastEvent } from 'lightning/platformShowToastEvent';
import { feedbackInput, fieldsOf, valuesOf } from './fields';
import { defectsOf, duplicatesOf, factorsOf, linesOf } from './lines';

/**
 * What Hookline found out about the record, from the fields that it writes. It asks no server of ours: who may not read
 * a field sees nothing of it, and the record's own cache keeps it fresh. Only the rep's feedback is written.
 */
export default class HooklineInsight extends LightningElement {
    @api recordId;
    @api objectApiName;

    values = null;
    failure = '';
    note = '';
    saving = false;

    get fields() {
        return this.objectApiName ? fieldsOf(this.objectApiName) : undefined;
    }

    @wire(getRecord, { recordId: '$recordId', optionalFields: '$fields' })
    receive({ data, error }) {
        if (data) {
            this.values = valuesOf(data);
            this.note = this.values.feedbackNote ?? '';
            this.failure = '';
        } else if (error) {
            this.failure = messageOf(error);
        }
    }

    get loading() {
        return this.values === null && this.failure === '';
    }

    get analysed() {
        return Boolean(this.values?.analyzedAt);
    }

    get waiting() {
        return this.values !== null && !this.analysed;
    }

    get scored() {
        return this.values?.score !== null && this.values?.score !== undefined;
    }

    get score() {
        return this.values.score;
    }

    get grade() {
        return this.values.grade;
    }

    get gradeStyle() {
        return `grade grade_${(this.values.grade ?? 'none').toLowerCase()}`;
    }

    get scoreLabel() {
        return `Score ${this.score} of 100, grade ${this.grade}`;
    }

    get summary() {
        return this.values.summary;
    }

    get factors() {
        return factorsOf(this.values.why);
    }

    get hasFactors() {
        return this.factors.length > 0;
    }

    get changes() {
        return linesOf(this.values.whatChanged);
    }

    get hasChanges() {
        return this.changes.length > 0;
    }

    get nextStep() {
        return this.values.nextStep;
    }

    get nextStepDue() {
        return this.values.nextStepDue;
    }

    get requirements() {
        return linesOf(this.values.requirements);
    }

    get hasRequirements() {
        return this.requirements.length > 0;
    }

    get questions() {
        return linesOf(this.values.openQuestions);
    }

    get hasQuestions() {
        return this.questions.length > 0;
    }

    get defects() {
        return defectsOf(this.values.dataQuality);
    }

    get hasDefects() {
        return this.defects.length > 0;
    }

    get duplicates() {
        return duplicatesOf(this.values.duplicates);
    }

    get hasDuplicates() {
        return this.duplicates.length > 0;
    }

    get healthLabel() {
        const health = this.values.dataHealth;
        return health === null ? '' : `${health} of 100`;
    }

    get analyzedAt() {
        return this.values.analyzedAt;
    }

    get modelLabel() {
        const model = this.values.model ?? '';
        return model === 'offline-rules' || model === 'rules' ? 'rules, no language model' : model;
    }

    get version() {
        return this.values.version;
    }

    get upVariant() {
        return this.values.feedback === 'up' ? 'brand' : 'border-filled';
    }

    get downVariant() {
        return this.values.feedback === 'down' ? 'brand' : 'border-filled';
    }

    get upPressed() {
        return String(this.values.feedback === 'up');
    }

    get downPressed() {
        return String(this.values.feedback === 'down');
    }

    get asksForNote() {
        return this.values.feedback === 'down';
    }

    writeNote(event) {
        this.note = event.detail.value;
    }

    voteUp() {
        return this.save('up', '');
    }

    voteDown() {
        return this.save('down', this.note);
    }

    saveNote() {
        return this.save('down', this.note);
    }

    async save(vote, note) {
        this.saving = true;
        try {
            await updateRecord(feedbackInput(this.recordId, vote, note));
            this.values = { ...this.values, feedback: vote, feedbackNote: note };
            await notifyRecordUpdateAvailable([{ recordId: this.recordId }]);
        } catch (error) {
            this.dispatchEvent(
                new ShowToastEvent({
                    title: 'Your feedback was not saved',
                    message: `${messageOf(error)} Ask your admin for the permission set "Hookline: read insights".`,
                    variant: 'error'
                })
            );
        } finally {
            this.saving = false;
        }
    }
}

function messageOf(error) {
    const body = error?.body;
    if (Array.isArray(body)) {
        return body.map((one) => one.message).join(' ');
    }
    return body?.message ?? error?.message ?? 'Salesforce gave no reason.';
}
