"""Every verb of every app that changes rows records an event, or stands here with the reason why it does not."""

import pytest

from tests.audit.service_calls import CallGraph, call_graph

THE_LOG_ITSELF = "it is the log"
BOOKKEEPING = "it changes nothing that anybody may do or has done: times last seen, counts, leases, windows"
STEP = "it is a step of a round; the step that ends it, or the round's end, is the event"
CALLER = "the keyring lies below the log: the command or service that calls it records the event in its transaction"
OF_AN_INCIDENT = "a part of an incident or a response, whose opening, doing or closing is the event"
OF_A_FACTOR = "the secret of a second factor, whose enrolment or removal in the same transaction is the event"
SILENT = {
    "audit.bulk_rows.insert_rows": THE_LOG_ITSELF,
    "audit.bulk_rows.set_true": THE_LOG_ITSELF,
    "audit.sequencing.append_to_log": THE_LOG_ITSELF,
    "audit.sequencing.take_sequencer_lock": THE_LOG_ITSELF,
    "audit.services.issue_checkpoint": THE_LOG_ITSELF,
    "audit.anchoring.plan_anchor": "the log laid down elsewhere: the receipt says so, and a missed one is an event",
    "audit.services.record_event": THE_LOG_ITSELF,
    "audit.services.record_events": THE_LOG_ITSELF,
    "audit.services.sequence_events": THE_LOG_ITSELF,
    "audit.services.sequence_log": THE_LOG_ITSELF,
    "keyring.data_keys.create_data_key": "its callers announce a first key, and a rotation is the event of its command",
    "keyring.escrow.recover_escrow": CALLER,
    "keyring.escrow.split_escrow": CALLER,
    "keyring.rotation.begin_rotation": CALLER,
    "keyring.rotation.destroy_retired_keys": CALLER,
    "keyring.rotation.finish_rotation": CALLER,
    "keyring.rotation.rewrap_values": CALLER,
    "keyring.rotation.switch_data_keys": CALLER,
    "keyring.services.rotate_server_key": CALLER,
    "devices.services.note_device_seen": BOOKKEEPING,
    "devices.services.note_keys_used": BOOKKEEPING,
    "operator_access.adapters.SecondFactorAdapter.encrypt": OF_A_FACTOR,
    "operator_access.services.factor_secrets.keep_secret": OF_A_FACTOR,
    "operator_access.services.factor_secrets.forget_secret": OF_A_FACTOR,
    "operator_access.services.factor_secrets.forget_secrets_of_no_factor": OF_A_FACTOR,
    "operator_access.code_limit.forget_attempts": BOOKKEEPING,
    "operator_access.roles.set_up_roles": "a migration's: what a release lets each role do is in its source",
    "qflare_site.services.record_heartbeat": BOOKKEEPING,
    "qflare_site.services.record_task_failure": "what failed changed nothing; it is kept for the console",
    "qflare_site.task_failures.keep_failure": "see `record_task_failure`",
    "qflare_site.worker_heartbeat.HeartbeatStep.start": BOOKKEEPING,
    "qflare_site.worker_heartbeat.beat": BOOKKEEPING,
    "sessions.acceptance.take_number": BOOKKEEPING,
    "sessions.exchanges.store_answer": BOOKKEEPING,
    "training.services.publication.time_step": BOOKKEEPING,
    "training.services.rounds.extend_lease": BOOKKEEPING,
    "training.services.rounds.release_lease": BOOKKEEPING,
    "training.services.leases.postpone": BOOKKEEPING,
    "monitor.services.deliveries.announce": OF_AN_INCIDENT,
    "monitor.services.incidents.add_responses": OF_AN_INCIDENT,
    "monitor.services.incidents.tell": OF_AN_INCIDENT,
    "monitor.services.tuning.make_settings": "the rules' own defaults; what an operator changes of them is the event",
    "monitor.services.watch.forget_old_sightings": BOOKKEEPING,
    "monitor.services.watch.note_run": BOOKKEEPING,
    "qflare_site.backup.rows.clear_rows_of_new_site": "a step of `restore_backup`, which is the event",
    "qflare_site.backup.rows.insert_rows": "a step of `restore_backup`, which is the event",
    "enrollment.services.delete_expired_attempts": "an attempt that ended without a device; the refusal was the event",
    "sessions.key_rotation.begin_key_rotation": "a challenge; its answer, `finish_key_rotation`, is the event",
    "sessions.qkd_keys.forget_qkd_keys": "keys that a handshake reserved, which was the event, and did not use",
    "enclave.services.destroy_retired_keys": "the retirement, after which nothing opens with them, was the event",
    "training.services.carried_rows.replace_carried_rows": STEP,
    "training.services.participation.model_for": STEP,
    "training.services.range_steps.advance": STEP,
    "training.services.releases.publish_release": STEP,
    "training.services.blob_sweep.sweep_blobs": "see `sweep_uploads`",
    "training.services.uploads.sweep_uploads": "what is left of uploads whose round is over, which was the event",
}


@pytest.fixture(scope="module")
def graph() -> CallGraph:
    return call_graph()


def test_the_walk_sees_the_verbs_and_follows_calls(graph: CallGraph) -> None:
    assert {
        "devices.services.suspend_device",
        "enrollment.services.issue_token",
        "sessions.services.revoke_device",
        "training.services.rounds.open_round",
        "training.services.participation.record_update",
    } <= graph.writing & graph.recording


def test_no_verb_changes_rows_in_silence(graph: CallGraph) -> None:
    assert graph.silent() - SILENT.keys() == set()


def test_no_exception_outlives_its_verb(graph: CallGraph) -> None:
    assert SILENT.keys() - graph.silent() == set()


def test_a_verb_that_loses_its_event_is_found(graph: CallGraph) -> None:
    verbs = dict(graph.verbs)
    verbs = {name: verb for name, verb in verbs.items() if name != "devices.services._change_state"}
    changed = graph.verbs["devices.services._change_state"]
    assert (changed.writes, changed.records) == (True, True)
    silent = CallGraph({**verbs, changed.name: type(changed)(changed.name, True, False, changed.calls)}).silent()
    assert {"devices.services.suspend_device", "devices.services.revoke_device"} <= silent
