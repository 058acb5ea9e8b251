/** Hookline's fields on a record, by the short names that this component uses. */
const NAMES = {
    score: 'Hookline_Score__c',
    grade: 'Hookline_Grade__c',
    summary: 'Hookline_Summary__c',
    why: 'Hookline_Why__c',
    whatChanged: 'Hookline_What_Changed__c',
    nextStep: 'Hookline_Next_Step__c',
    nextStepDue: 'Hookline_Next_Step_Due__c',
    requirements: 'Hookline_Requirements__c',
    openQuestions: 'Hookline_Open_Questions__c',
    dataQuality: 'Hookline_Data_Quality__c',
    dataHealth: 'Hookline_Data_Health__c',
    duplicates: 'Hookline_Duplicates__c',
    analyzedAt: 'Hookline_Analyzed_At__c',
    model: 'Hookline_Model__c',
    version: 'Hookline_Version__c',
    feedback: 'Hookline_Feedback__c',
    feedbackNote: 'Hookline_Feedback_Note__c'
};

/** The fields of an object, as `getRecord` wants them. */
export function fieldsOf(objectApiName) {
    return Object.values(NAMES).map((name) => `${objectApiName}.${name}`);
}

/** A record's values by short name; a field that the user may not read, or that has no value, is null. */
export function valuesOf(record) {
    return Object.fromEntries(
        Object.entries(NAMES).map(([short, name]) => [short, record?.fields?.[name]?.value ?? null])
    );
}

/** What `updateRecord` wants, for the fields that a rep writes. */
export function feedbackInput(recordId, vote, note) {
    return { fields: { Id: recordId, [NAMES.feedback]: vote, [NAMES.feedbackNote]: note } };
}
