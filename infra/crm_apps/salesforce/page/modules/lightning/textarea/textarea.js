import { LightningElement, api } from 'lwc';

export default class Textarea extends LightningElement {
    @api label;
    @api maxLength;
    @api value;

    renderedCallback() {
        const field = this.template.querySelector('textarea');
        if (field.value !== (this.value ?? '')) {
            field.value = this.value ?? '';
        }
    }

    tell(event) {
        this.dispatchEvent(new CustomEvent('change', { detail: { value: event.target.value } }));
    }
}
