"""simple-salesforce, unchanged, against the sandbox."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from simple_salesforce import (
    Salesforce,
    SalesforceExpiredSession,
    SalesforceMalformedRequest,
    SalesforceRefusedRequest,
    SalesforceResourceNotFound,
)
from simple_salesforce.exceptions import SalesforceAuthenticationFailed


def collect(salesforce, records, **more):
    return salesforce.restful(
        "composite/sobjects", method="PATCH", json={"allOrNone": False, "records": records, **more}
    )


def row(kind, record_id, **values):
    return {"attributes": {"type": kind}, "id": record_id, **values}


def test_a_record_is_created_read_changed_and_deleted(salesforce):
    made = salesforce.Lead.create({"LastName": "Fjord", "Company": "Fjord Instruments", "NumberOfEmployees": 12})
    assert made["success"]
    assert salesforce.Lead.update(made["id"], {"City": "Bergen"}) == 204
    found = salesforce.Lead.get(made["id"])
    assert (found["City"], found["Name"], found["NumberOfEmployees"]) == ("Bergen", "Fjord", 12)
    assert found["attributes"]["type"] == "Lead"
    assert salesforce.Lead.get(made["id"][:15])["Id"] == made["id"]
    assert salesforce.Lead.delete(made["id"]) == 204
    with pytest.raises(SalesforceResourceNotFound):
        salesforce.Lead.get(made["id"])


def test_queries_filter_order_and_page(salesforce, controls, org):
    everything = salesforce.query_all("SELECT Id, Amount FROM Opportunity WHERE Amount >= 1000 ORDER BY Amount DESC")
    amounts = [row["Amount"] for row in everything["records"]]
    assert amounts == sorted(amounts, reverse=True)
    assert everything["totalSize"] == len(controls.records(org, "deal"))
    ids = controls.records(org, "lead")[:2]
    listed = "', '".join(ids)
    found = salesforce.query(f"SELECT Id, LastName FROM Lead WHERE Id IN ('{listed}') AND IsConverted = false")
    assert {row["Id"] for row in found["records"]} == set(ids)
    assert salesforce.query("SELECT COUNT() FROM Lead")["totalSize"] == len(controls.records(org, "lead"))


def test_a_long_result_is_continued_by_its_locator(salesforce):
    rows = [{"attributes": {"type": "Account"}, "Name": f"Company {n:04d}"} for n in range(200)]
    for _ in range(2):
        assert all(
            result["success"]
            for result in salesforce.restful("composite/sobjects", method="POST", json={"records": rows})
        )
    first = salesforce.query(
        "SELECT Id, Name FROM Account WHERE Name LIKE 'Company %'", headers={"Sforce-Query-Options": "batchSize=250"}
    )
    assert (first["totalSize"], len(first["records"]), first["done"]) == (400, 250, False)
    rest = salesforce.query_more(first["nextRecordsUrl"], identifier_is_url=True)
    assert rest["done"]
    assert len({row["Id"] for row in first["records"] + rest["records"]}) == 400


@pytest.mark.parametrize(
    "text",
    ["SELECT Id FROM Lead WHERE", "DROP TABLE Lead", "SELECT Id FROM Nothing", "SELECT Nothing__c FROM Lead", ""],
)
def test_queries_that_make_no_sense_are_refused(salesforce, text):
    with pytest.raises(SalesforceMalformedRequest):
        salesforce.query(text)


def test_collections_answer_row_by_row(salesforce, controls, org):
    lead, contact = controls.records(org, "lead")[0], controls.records(org, "contact")[0]
    results = collect(
        salesforce,
        [
            row("Lead", lead, City="Turku"),
            row("Contact", contact, MailingCity="Turku"),
            row("Lead", "00Q5g0000000zzzAAA", City="Turku"),
            row("Lead", controls.records(org, "lead")[1], Nothing__c="x"),
            row("Lead", controls.records(org, "lead")[2], City="x" * 41),
            row("Lead", lead, City="Oulu"),
        ],
    )
    assert [result["success"] for result in results] == [True, True, False, False, False, False]
    codes = [result["errors"][0]["statusCode"] for result in results[2:]]
    assert codes == ["NOT_FOUND", "INVALID_FIELD", "STRING_TOO_LONG", "DUPLICATE_VALUE"]
    assert controls.record(org, "lead", lead)["properties"]["City"] == "Turku"


def test_all_or_none_writes_nothing_when_one_row_fails(salesforce, controls, org):
    lead = controls.records(org, "lead")[0]
    before = controls.record(org, "lead", lead)["properties"].get("City")
    results = collect(salesforce, [row("Lead", lead, City="Turku"), row("Lead", "00Q5g0000000zzzAAA")], allOrNone=True)
    assert results[0]["errors"][0]["statusCode"] == "ALL_OR_NONE_OPERATION_ROLLED_BACK"
    assert controls.record(org, "lead", lead)["properties"].get("City") == before


def test_a_collection_takes_two_hundred_records_in_ten_chunks_and_no_more(salesforce, controls, org):
    lead, contact = controls.records(org, "lead")[0], controls.records(org, "contact")[0]
    with pytest.raises(SalesforceMalformedRequest, match="200"):
        collect(salesforce, [row("Lead", lead)] * 201)
    assert len(collect(salesforce, [row("Lead", lead)] * 200)) == 200
    mixed = [row("Lead", lead), row("Contact", contact)] * 6
    with pytest.raises(SalesforceMalformedRequest, match="change type"):
        collect(salesforce, mixed)


def test_retrieving_many_keeps_the_order_and_says_null_for_what_is_not_there(salesforce, controls, org):
    ids = controls.records(org, "lead")[:2]
    body = {"ids": [ids[1], "00Q5g0000000zzzAAA", ids[0]], "fields": ["Id", "LastModifiedDate"]}
    found = salesforce.restful("composite/sobjects/Lead", method="POST", json=body)
    assert [one and one["Id"] for one in found] == [ids[1], None, ids[0]]


def test_upsert_by_id_says_what_it_created(salesforce, controls, org):
    lead = controls.records(org, "lead")[0]
    records = [{"attributes": {"type": "Lead"}, "Id": lead, "City": "Turku"}]
    results = salesforce.restful("composite/sobjects/Lead/Id", method="PATCH", json={"records": records})
    assert results == [{"id": lead, "success": True, "errors": [], "created": False}]


def test_a_custom_field_is_created_through_the_tooling_api_described_and_written(salesforce, controls, org):
    metadata = {"label": "Score", "type": "Number", "precision": 3, "scale": 0}
    body = {"FullName": "Lead.Hookline_Score__c", "Metadata": metadata}
    assert salesforce.toolingexecute("sobjects/CustomField", method="POST", data=body)["success"]
    with pytest.raises(SalesforceMalformedRequest, match="DUPLICATE_DEVELOPER_NAME"):
        salesforce.toolingexecute("sobjects/CustomField", method="POST", data=body)
    field = next(field for field in salesforce.Lead.describe()["fields"] if field["name"] == "Hookline_Score__c")
    assert (field["type"], field["custom"], field["label"]) == ("double", True, "Score")
    lead = controls.records(org, "lead")[0]
    collect(salesforce, [row("Lead", lead, Hookline_Score__c=80)])
    assert (
        salesforce.query(f"SELECT Hookline_Score__c FROM Lead WHERE Id = '{lead}'")["records"][0]["Hookline_Score__c"]
        == 80.0
    )
    query = "SELECT QualifiedApiName FROM FieldDefinition WHERE EntityDefinition.QualifiedApiName = 'Lead'"
    names = {found["QualifiedApiName"] for found in salesforce.toolingexecute("query", params={"q": query})["records"]}
    assert "Hookline_Score__c" in names


def test_usage_is_in_a_header_and_a_spent_budget_is_403(salesforce, controls, org):
    controls.set_limits(org, daily=3, used_today=0)
    salesforce.limits()
    assert salesforce.api_usage["api-usage"] == (1, 3)
    salesforce.limits()
    assert salesforce.limits()["DailyApiRequests"] == {"Max": 3, "Remaining": 0}
    with pytest.raises(SalesforceRefusedRequest, match="REQUEST_LIMIT_EXCEEDED"):
        salesforce.limits()


def test_a_revoked_session_is_refused_as_expired(salesforce, controls):
    controls.revoke_token("session-of-hookline")
    with pytest.raises(SalesforceExpiredSession, match="INVALID_SESSION_ID"):
        salesforce.limits()


def test_client_credentials_log_in_and_again_after_the_session_expired(salesforce_session, controls):
    controls.create_org("00D5g000004XyzA", consumer_key="key", consumer_secret="secret")
    client = Salesforce(consumer_key="key", consumer_secret="secret", domain="acme.my", session=salesforce_session)
    first = client.session_id
    assert client.query("SELECT Name FROM Organization")["totalSize"] == 1
    controls.revoke_token(first)
    client.limits()
    assert client.session_id != first
    with pytest.raises(SalesforceAuthenticationFailed):
        Salesforce(consumer_key="key", consumer_secret="wrong", domain="acme.my", session=salesforce_session)


def test_a_jwt_logs_in_when_it_is_signed_by_the_orgs_certificate(salesforce_session, controls):
    def pair():
        key = rsa.generate_private_key(65537, 2048)
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return private.decode(), public.decode()

    private, public = pair()
    controls.create_org("00D5g000004XyzA", consumer_key="key", public_key=public)
    login = {"username": "robot@acme.example", "consumer_key": "key", "session": salesforce_session}
    assert Salesforce(privatekey=private, **login).limits()["DailyApiRequests"]["Max"] == 100_000
    with pytest.raises(SalesforceAuthenticationFailed, match="InvalidSignatureError"):
        Salesforce(privatekey=pair()[0], **login)


def test_a_refresh_token_brings_a_session(salesforce_session, controls):
    made = controls.create_org("00D5g000004XyzA", consumer_key="key", consumer_secret="secret", refresh_token="refresh")
    form = {"grant_type": "refresh_token", "client_id": "key", "client_secret": "secret", "refresh_token": "refresh"}
    granted = salesforce_session.post("https://login.salesforce.com/services/oauth2/token", data=form).json()
    client = Salesforce(
        session_id=granted["access_token"], instance_url=granted["instance_url"], session=salesforce_session
    )
    assert client.oauth2("userinfo")["user_id"] == made["integration_user"]


def test_planted_faults_are_met(salesforce, controls, org):
    controls.plant_fault(org, "query", "403")
    with pytest.raises(SalesforceRefusedRequest):
        salesforce.query("SELECT Id FROM Lead")
    controls.plant_fault(org, "collections.update", "207", rows=1)
    ids = controls.records(org, "lead")[:2]
    results = collect(salesforce, [row("Lead", ids[0], City="T"), row("Lead", ids[1], City="T")])
    assert [result["success"] for result in results] == [False, True]
    assert results[0]["errors"][0]["statusCode"] == "UNABLE_TO_LOCK_ROW"


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PATCH", "composite/sobjects", {"records": [1]}),
        ("PATCH", "composite/sobjects", {"records": [{"attributes": 1, "id": "x"}]}),
        ("PATCH", "composite/sobjects", [1]),
        ("POST", "composite/sobjects/Lead", {"ids": 5, "fields": ["Id"]}),
        (
            "POST",
            "tooling/sobjects/CustomField",
            {"FullName": "Lead.X__c", "Metadata": {"label": "X", "type": "Text", "length": "long"}},
        ),
        ("POST", "sobjects/Lead", {"LastName": {"a": 1}, "Company": "x"}),
    ],
)
def test_input_of_the_wrong_shape_is_refused_in_the_vendors_shape(salesforce, method, path, body):
    with pytest.raises(SalesforceMalformedRequest) as caught:
        salesforce.restful(path, method=method, json=body)
    assert set(caught.value.content[0]) >= {"message", "errorCode"}
