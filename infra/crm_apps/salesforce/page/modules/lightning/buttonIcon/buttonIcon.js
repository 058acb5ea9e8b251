import { LightningElement, api } from 'lwc';

const THUMB = 'M2 21h4V9H2v12zM22 10c0-1.100-.9-2-2-2h-6.300l1-4.600c.1-.6-.1-1.200-.5-1.600L13.200 1 6.600 7.600C6.200 8 6 8.500 6 9v10c0 1.100.9 2 2 2h9c.8 0 1.500-.5 1.800-1.200l3-7.100c.1-.2.2-.5.2-.7v-2z';

export default class ButtonIcon extends LightningElement {
    @api iconName;
    @api alternativeText;
    @api variant;
    @api disabled = false;

    get path() {
        return THUMB;
    }

    get turn() {
        return this.iconName === 'utility:dislike' ? 'rotate(180 12 12)' : '';
    }

    get style() {
        return this.variant === 'brand' ? 'brand' : 'plain';
    }
}
