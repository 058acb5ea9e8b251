import { LightningElement, api } from 'lwc';

const NUMERIC = ['year', 'day', 'hour', 'minute'];

export default class FormattedDateTime extends LightningElement {
    @api value;
    @api timeZone;
    @api year;
    @api month;
    @api day;
    @api hour;
    @api minute;

    get text() {
        const options = { timeZone: this.timeZone ?? 'UTC' };
        for (const part of [...NUMERIC, 'month']) {
            if (this[part]) {
                options[part] = this[part];
            }
        }
        return new Intl.DateTimeFormat(undefined, options).format(new Date(this.value));
    }
}
