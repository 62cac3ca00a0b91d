"""Settings of TLS and SASL: one file for all clients, and a broker that wants them."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from kafka import KafkaConsumer, KafkaProducer
from kafka.admin import KafkaAdminClient, ScramMechanism, UserScramCredentialUpsertion
from kafka.errors import KafkaError

from extensions.errors import ConfigurationError
from extensions.local import apache_kafka
from extensions.local.ports import free_port
from extensions.operations import doctor
from streaming.kafka import broker_check
from streaming.kafka.broker_check import check_broker
from streaming.kafka.client_settings import SETTINGS_VARIABLE, client_settings
from streaming.settings import Settings

ROOT = Path(__file__).parents[2]
SECRET = "hunter2-secret"


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    def written(text: str) -> Path:
        path = tmp_path / "kafka.yaml"
        path.write_text(text)
        monkeypatch.setenv(SETTINGS_VARIABLE, str(path))
        return path

    return written


def test_without_a_file_there_are_the_brokers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SETTINGS_VARIABLE, raising=False)
    assert client_settings("a:1") == {"bootstrap_servers": "a:1"}


def test_yaml_and_json_with_variables(write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_PASSWORD", SECRET)
    said = {"security_protocol": "SASL_SSL", "sasl_plain_password": "a${KAFKA_PASSWORD}b"}
    expected = {**said, "sasl_plain_password": f"a{SECRET}b", "bootstrap_servers": "a:1"}
    for text in (json.dumps(said), "\n".join(f"{k}: {v}" for k, v in said.items())):
        write(text)
        assert client_settings("a:1") == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("sasl_plain_pasword: x", "Did you mean sasl_plain_password?"),
        ("group_id: x", "group_id"),
        ("ssl_context: x", "ssl_context"),
        ("security_protocol: sasl_sll", "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        (f"sasl_plain_password: ${{NOT_SET_{1}}}", "NOT_SET_1"),
        (f"sasl_plain_password: [{SECRET}]", "sasl_plain_password"),
        (f"sasl_plain_password: '{SECRET}\nx: {{", "line"),
        (f"- {SECRET}", "by name"),
    ],
)
def test_what_is_wrong_is_said_without_a_secret(write, text: str, told: str) -> None:
    path = write(text)
    with pytest.raises(ConfigurationError) as caught:
        client_settings("a:1")
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (None, "ssl_cafile .* names a file that cannot be read: No such file"),
        (SECRET, "ssl_cafile .* names a file that holds no certificate"),
    ],
)
def test_an_authority_that_is_none(write, tmp_path: Path, text: str | None, why: str) -> None:
    authority = tmp_path / "ca.pem"
    if text:
        authority.write_text(text)
    write(f"security_protocol: SSL\nssl_cafile: {authority}")
    with pytest.raises(ConfigurationError, match=why) as caught:
        client_settings("a:1")
    found = check_broker("a:1")
    assert (found.ok, found.advice) == (False, caught.value.message)
    assert SECRET not in str(caught.value)


def test_a_broker_with_settings_of_its_own_gets_those_alone(write) -> None:
    write(
        "security_protocol: SSL\nbrokers:\n  b:1, c:2: {socks5_proxy: x}\n  d:1: {ssl_x: 1}\n"
        "  e:1: {}"
    )
    assert client_settings("a:1") == {"bootstrap_servers": "a:1", "security_protocol": "SSL"}
    assert client_settings("c:2,b:1") == {"bootstrap_servers": "c:2,b:1", "socks5_proxy": "x"}
    assert client_settings("e:1") == {"bootstrap_servers": "e:1"}
    with pytest.raises(ConfigurationError, match="'ssl_x', which is no setting"):
        client_settings("d:1")
    write("brokers: [b:1]")
    with pytest.raises(ConfigurationError, match=r"brokers in .* must hold settings by address"):
        client_settings("a:1")


def test_doctor_checks_the_broker_that_each_stream_reads(
    tmp_path: Path, kafka_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two streams read the environment's broker, one names its own, at which nothing answers."""
    # A process works for one repository; this test's is another.
    for name in [name for name in sys.modules if name.partition(".")[0] == "feature_repo"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(broker_check, "PATIENCE_MS", 5_000)
    nowhere = f"127.0.0.1:{free_port()}"
    (tmp_path / "feature_store.yaml").write_text(
        (ROOT / "feature_store.yaml").read_text().replace("project: ", "project: x")
    )
    (tmp_path / "feature_repo").mkdir()
    (tmp_path / "feature_repo" / "__init__.py").touch()
    streams = "\n".join(
        f"{name} = KafkaSource(name={name!r}, topic={name!r}, kafka_bootstrap_servers={at!r}, "
        "timestamp_field='at', batch_source=t, message_format=JsonFormat(schema_json=''))"
        for name, at in (("one", ""), ("two", ""), ("far", nowhere))
    )
    sources = tmp_path / "feature_repo" / "sources.py"
    sources.write_text(
        "from feast import KafkaSource\nfrom feast.data_format import JsonFormat\n"
        "from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import "
        "PostgreSQLSource\nt = PostgreSQLSource(name='t', table='t', timestamp_field='at', "
        f"created_timestamp_column='known_at', tags={{'keys': 'k'}})\n{streams}\n"
    )
    settings = Settings("", kafka_server, tmp_path)
    found = {one.what: one for one in doctor._kafka(lambda: broker_check.check_brokers(settings))}
    assert set(found) == {"kafka of one, two", "kafka of far"}
    assert found["kafka of one, two"].ok
    assert found["kafka of one, two"].found.endswith(f" topics at {kafka_server}")
    advice = str(found["kafka of far"].advice)
    assert advice == (
        f"Nothing answers at {nowhere}: start Kafka, or check kafka_bootstrap_servers of far."
    )
    sources.unlink()
    [(name, broker)] = broker_check.check_brokers(settings)
    assert (name, broker.ok) == ("kafka", True)
    for name in [name for name in sys.modules if name.partition(".")[0] == "feature_repo"]:
        del sys.modules[name]


def test_a_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, "/nowhere/kafka.yaml")
    with pytest.raises(ConfigurationError, match=r"/nowhere/kafka\.yaml"):
        client_settings("a:1")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str, Path]]:
    """A broker's addresses, plain and with SASL over TLS, and the authority of its certificate."""
    if reason := apache_kafka.available():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("secure")
    authority, port = trustme.CA(), free_port()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    certificate = authority.issue_cert("127.0.0.1")
    key = load_pem_private_key(certificate.private_key_pem.bytes(), None).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
    (folder / "broker.pem").write_bytes(key + chain)
    plain = "org.apache.kafka.common.security.plain.PlainLoginModule"
    scram = "org.apache.kafka.common.security.scram.ScramLoginModule"
    more = f"""
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT,SECURE:SASL_SSL
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-512
listener.name.secure.plain.sasl.jaas.config={plain} required user_alice="{SECRET}";
listener.name.secure.scram-sha-512.sasl.jaas.config={scram} required;
ssl.keystore.type=PEM
ssl.keystore.location={folder / "broker.pem"}
"""
    write = apache_kafka._write_settings

    def secured(data_dir: Path, logs: Path, broker: int, controller: int) -> Path:
        path = write(data_dir, logs, broker, controller)
        text = path.read_text()
        for name in ("listeners=", "advertised.listeners="):
            text = text.replace(f"\n{name}", f"\n{name}SECURE://127.0.0.1:{port},")
        path.write_text(text + more)
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(apache_kafka, "_write_settings", secured)
        server = apache_kafka.start(folder / "data")
    try:
        admin = KafkaAdminClient(bootstrap_servers=server.url)
        admin.create_topics({"letters": {"num_partitions": 1, "replication_factor": 1}})
        admin.alter_user_scram_credentials(
            [UserScramCredentialUpsertion("bob", ScramMechanism.SCRAM_SHA_512, SECRET)]
        )
        admin.close()
        yield server.url, f"127.0.0.1:{port}", folder / "ca.pem"
    finally:
        server.stop()


@pytest.mark.apache_kafka
@pytest.mark.parametrize(("mechanism", "user"), [("PLAIN", "alice"), ("SCRAM-SHA-512", "bob")])
def test_all_clients_speak_sasl_over_tls(
    secure: tuple[str, str, Path], write, monkeypatch: pytest.MonkeyPatch, mechanism: str, user: str
) -> None:
    _, address, authority = secure
    monkeypatch.setenv("KAFKA_PASSWORD", SECRET)
    said = {
        "security_protocol": "SASL_SSL", "sasl_mechanism": mechanism, "sasl_plain_username": user,
        "sasl_plain_password": "${KAFKA_PASSWORD}", "ssl_cafile": str(authority),
    }  # fmt: skip
    write(json.dumps(said))
    settings = client_settings(address)
    producer = KafkaProducer(**settings)
    sent = producer.send("letters", user.encode()).get(timeout=30)
    producer.close()
    consumer = KafkaConsumer("letters", auto_offset_reset="earliest", **settings)
    values = []
    while len(values) <= sent.offset:
        values += [r.value for part in consumer.poll(1_000).values() for r in part]
    consumer.close()
    assert values[-1] == user.encode()
    admin = KafkaAdminClient(**settings)
    assert "letters" in {topic["name"] for topic in admin.describe_topics(["letters"])}
    admin.close()


@pytest.mark.apache_kafka
def test_a_wrong_password_is_refused(secure: tuple[str, str, Path], write) -> None:
    _, address, authority = secure
    said = {
        "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_username": "alice",
        "sasl_plain_password": "wrong", "ssl_cafile": str(authority),
    }  # fmt: skip
    write(json.dumps(said))
    with pytest.raises(KafkaError) as caught:
        KafkaAdminClient(**client_settings(address), bootstrap_timeout_ms=5_000)
    assert "wrong" not in str(caught.value)


@pytest.mark.apache_kafka
@pytest.mark.parametrize(
    ("changes", "at", "told"),
    [
        ({}, "secure", None),
        ({"sasl_plain_password": "wrong"}, "secure", "refuses the user"),
        ({"ssl_cafile": "other"}, "secure", "is not trusted"),
        ({"security_protocol": "PLAINTEXT"}, "secure", "does not answer as a Kafka broker"),
        ({}, "plain", "does not speak TLS"),
        ({}, "nowhere", "Nothing answers at"),
        ({"sasl_plain_pasword": SECRET}, "secure", "Did you mean sasl_plain_password?"),
    ],
)
def test_doctor_says_which_setting_is_wrong(
    secure: tuple[str, str, Path], write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str], at: str, told: str | None,
) -> None:  # fmt: skip
    plain, address, authority = secure
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    said = {
        "security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "sasl_plain_username": "alice",
        "sasl_plain_password": SECRET, "ssl_cafile": str(authority), **changes,
    }  # fmt: skip
    if "ssl_cafile" in changes:
        said["ssl_cafile"] = str(tmp_path / "other.pem")
    write(json.dumps(said))
    where = {"secure": address, "plain": plain, "nowhere": f"127.0.0.1:{free_port()}"}[at]
    if told:
        monkeypatch.setattr(broker_check, "PATIENCE_MS", 5_000)
    [finding] = doctor._kafka(lambda: [("kafka", check_broker(where))])
    assert finding.ok == (told is None), finding
    assert told is None or told in str(finding.advice), finding
    text = f"{finding.found} {finding.advice}"
    assert SECRET not in text
    assert "wrong" not in text
