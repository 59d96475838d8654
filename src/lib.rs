//! spoolmill ingests drop folders: each complete file is one microbatch through one transform,
//! appended to an output exactly once, and renamed to `processed-*`.
//!
//! # The path of a file
//!
//! ```text
//! input/            staging/               state/ledger.db             output
//! Input --decode--> records --transform--> records --encode/stage--> Microbatch --commit--> Committed --publish--> published
//! source/   decode/           transform/   encode/, staging.rs           ledger/ (one          publish.rs, sink/
//!                                                                        transaction)
//!                                afterwards, as housekeeping: source/folder/ renames the input to processed-*
//! ```
//!
//! [`pipeline`] reads top to bottom in that order. Only the [`ledger`] makes a
//! [`ledger::Committed`], and [`publish`] takes nothing else: the order is in the types. Recovery is
//! no code of its own: at the start the daemon publishes and archives whatever the ledger still
//! owes, with the functions that every microbatch uses.
//!
//! # Map
//!
//! | module | what it is for | imports, of ours |
//! | --- | --- | --- |
//! | [`units`] | durations and sizes as they are written | nothing |
//! | [`clock`] | the wall clock, and pauses between attempts | nothing |
//! | [`pulse`] | heartbeat and stop flag | nothing |
//! | [`telemetry`] | logs | nothing |
//! | [`durable`] | the only door to fsync, rename, link, unlink | nothing |
//! | [`record`] | the nouns that travel | nothing |
//! | [`microbatch`] | the nouns of a commit | `durable`, `record` |
//! | [`failure`] | what an error means: reject, quarantine, retry, stop | `durable`, `record` |
//! | [`kafka`] | the connection to a Kafka cluster | `failure` |
//! | [`source`] | where inputs come from: which are complete, in which order; the archive | `clock`, `durable`, `failure`, `microbatch`, `pulse`, `record`, `telemetry` |
//! | [`decode`] | bytes to records: one file per format | `record` |
//! | [`transform`] | records to records: one file per kind | `failure`, `pulse`, `record`, `units` |
//! | [`event_time`] | windows, the watermark, what is late | `clock`, `units` |
//! | [`encode`] | records to bytes: one file per format | `clock`, `record` |
//! | [`staging`] | where encoded bytes wait for their commit | `durable`, `microbatch` |
//! | [`sink`] | where records go | `durable`, `failure`, `kafka`, `microbatch`, `record`, `units` |
//! | [`ledger`] | the commit point | `clock`, `durable`, `failure`, `microbatch`, `record` |
//! | [`publish`] | committed to published | `clock`, `durable`, `failure`, `ledger`, `microbatch`, `sink`, `units` |
//! | [`engine`] | SQL: plans and runs queries over records, and what continuous views keep | `event_time`, `record` |
//! | [`pipeline`] | one group of microbatches, top to bottom | `clock`, `decode`, `durable`, `encode`, `engine`, `event_time`, `failure`, `ledger`, `microbatch`, `publish`, `pulse`, `record`, `sink`, `source`, `staging`, `telemetry`, `transform`, `units` |
//! | [`config`] | the job file as written, and as used | `decode`, `durable`, `encode`, `event_time`, `kafka`, `microbatch`, `publish`, `record`, `sink`, `source`, `transform`, `units` |
//! | [`queries`] | the queries of one job: transform, tables, views, finals | `clock`, `config`, `decode`, `durable`, `encode`, `engine`, `event_time`, `failure`, `ledger`, `microbatch`, `pipeline`, `publish`, `pulse`, `record`, `sink`, `transform` |
//! | [`status`] | how a job stands, seen from outside | `clock`, `config`, `decode`, `durable`, `ledger`, `publish`, `record`, `sink`, `source`, `telemetry` |
//! | [`http`] | metrics, health and a page, over HTTP | `clock`, `config`, `durable`, `ledger`, `pulse`, `record`, `status` |
//! | [`daemon`] | the loop: wake, pipeline, pause, reload | any above |
//! | [`cli`] | one file per verb | any above |
//!
//! A module imports only from rows above its own. Stages never import each other, the ledger or `config`.
//! `tests/tidy.rs` holds this table against the code. Each heavy dependency has one door: `rusqlite` in [`ledger`], `datafusion` in [`engine`],
//! `rdkafka` in [`kafka`] and [`sink::kafka`], `notify` in [`source::folder::watch`], `toml` in [`config`], fsync and rename in [`durable`].
//!
//! # The promises
//!
//! Each names the test that guards it.
//!
//! 1. **Commit point.** A microbatch happened if and only if its row is committed in the ledger: one
//!    SQLite transaction holds the input consumed, the output and the rejects owed, the states of
//!    views and the watermark. (`crashes::an_abort_at_any_durable_operation_changes_nothing_in_the_end`,
//!    `crashes::an_abort_of_a_job_with_views_changes_nothing_in_the_end`)
//! 2. **Nothing is visible before commit**, and nothing visible is ever taken back.
//!    (`kills::a_reader_sees_every_record_once_through_any_number_of_kills`)
//! 3. **Nothing is lost after commit.** Publishing rolls forward, any number of times. A start believes
//!    nothing that is only in memory.
//!    (`crashes::an_abort_at_any_operation_of_the_recovery_changes_nothing_in_the_end`,
//!    `crashes::a_power_cut_in_the_recovery_from_any_abort_changes_nothing_in_the_end`)
//! 4. **An input is never deleted, overwritten or moved before its commit**, no archive step overwrites
//!    a file, and `processed-*` is a file that was committed as it is.
//!    (`archive::the_same_name_five_times_is_five_files`, `crashes::every_mutant_is_caught`,
//!    `altered::a_version_that_comes_during_the_archive_is_taken_by_itself`)
//! 5. **Identity, not name.** A new file under an old name is a new microbatch; the one that was
//!    committed just before a crash is not, also when its folder was away, or it was renamed.
//!    (`archive::a_committed_file_is_renamed_not_read_again`,
//!    `archive::a_drop_folder_that_was_away_brings_nothing_twice`)
//! 6. **A partial file is never read as a whole one.** What changed while it was read is discarded
//!    and settles again; what is written after the commit is set aside and told.
//!    (`complete::a_file_that_changes_while_it_is_read_settles_again`,
//!    `pipes::a_batch_takes_what_is_complete`, `command::what_a_command_starts_is_waited_for`,
//!    `altered::what_is_written_after_the_commit_is_set_aside_and_told`)
//! 7. **Hints are not truth.** Notifications only shorten the wait; a scan decides.
//!    (`complete::polling_finds_what_no_event_tells`)
//! 8. **Every input ends in exactly one place**: processed, or quarantined with the reason beside it.
//!    One bad file never stops the next one. (`hostile::one_bad_file_never_stops_the_next`)
//! 9. **Transient is not permanent.** A full disk pauses the daemon and quarantines nothing.
//!    (`crashes::an_operation_that_fails_once_is_made_good`, `place::a_start_on_a_full_disk_waits`)
//! 10. **Everything has a limit.** Memory does not grow with a file, the folder or the history.
//!     No call waits for ever: a signal is heard in each.
//!     (`hostile::a_line_without_end_costs_no_memory`, `pipes::a_signal_is_heard_in_whatever_waits`,
//!     `command::a_command_without_end_is_ended_by_its_limit`)
//! 11. **One writer, one taker.** Locks on the state directory and on the outputs are held for the life of
//!     the process; a ledger is of one job; no file is taken by two jobs; a batch leaves alone what a
//!     ledger counts on.
//!     (`service::a_second_instance_is_refused`, `place::two_jobs_do_not_take_the_same_files`,
//!     `windows::two_jobs_do_not_share_a_view_or_its_late_records`,
//!     `drivers::a_batch_leaves_the_files_of_the_daemon_alone`)
//! 12. **A failed fsync is never retried**: the daemon stops and recovers at its next start. What only a
//!     person can mend stops it for good.
//!     (`crashes::a_failed_fsync_stops_the_program`, `place::what_only_a_person_can_mend_ends_with_code_4`)
//! 13. **One transform, three drivers.** `run`, `batch` and `stream` over the same records give the
//!     same bytes. (`drivers::run_batch_and_stream_agree`)
//! 14. **Remote targets once.** A record reaches a target on another system once, whatever crashes there or
//!     here, and a copy of a ledger delivers nothing.
//!     (`crashes::an_abort_of_a_job_to_a_remote_target_changes_nothing_in_the_end`,
//!     `remote::an_original_stops_when_its_copy_has_delivered`,
//!     `kafka::an_abort_at_any_operation_delivers_each_record_once`)
//!
//! # Words
//!
//! *Microbatch*: one file's worth of records, the unit of commit. *Settle*: to stay unchanged for a
//! while. *Stage*: to put encoded bytes where no reader looks. *Commit*: the ledger's transaction.
//! *Publish*: to write committed bytes to the output. *Release*: to let the ledger forget what is durable elsewhere. *Archive*: to rename the input out of the
//! way. *Acknowledge*: to tell a source that an input is committed. *Partition*, *position*: where a message is in a
//! source that has no files. *Reject*: a bad record, with file, line and reason. *Failed*: a bad file, set aside as
//! `failed-*`; the key values of a job say `"quarantine"`. *Reference table*: a file that a query joins with, read again when it changes.
//! *Final*: a query over the whole output, made when the job ends. *View*: a continuous query over
//! everything so far; *state*: what it keeps of one group. *Window*: a span of event time by which
//! a view groups. *Watermark*: the event time up to which windows are closed; a *late* record came
//! after what it belongs to was closed. *Left out*: a group whose row cannot be computed. *Stopped*: a view
//! that sees nothing more until it is rebuilt. *Generation*: one life of an output file, until it is rotated
//! or somebody takes it away. *Rotation*: the output is closed and goes on in a new file. *Retention*: closed
//! outputs, archived inputs and history go when `keep` no longer covers them.
//! *Remote target*: one on another system, which remembers its *mark*: how far it has come. *Confirm*: to say that
//! everything before a mark is there. *Instance*: one start of a job. *Refused*: a record that a remote target does not take.
//! *Altered*: an input that was written to after its commit. *Duplicate*: a file with the content of an
//! earlier one. *Requeue*: to put a file back that was set aside, or take a processed one again. *Tally*:
//! the totals of everything committed, minute by minute. *Hint*: a notification that something may have
//! come. *Hidden name*: what a file is called between its own name and the archive; *shelter*: the folder
//! for hidden names while many files are archived.

pub mod cli;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod decode;
pub mod durable;
pub mod encode;
#[cfg(feature = "sql")]
pub mod engine;
#[cfg(not(feature = "sql"))]
#[path = "engine/none.rs"]
pub mod engine;
pub mod event_time;
pub mod failure;
pub mod http;
pub mod kafka;
pub mod ledger;
pub mod microbatch;
pub mod pipeline;
pub mod publish;
pub mod pulse;
pub mod queries;
pub mod record;
pub mod sink;
pub mod source;
pub mod staging;
pub mod status;
pub mod telemetry;
pub mod transform;
pub mod units;
