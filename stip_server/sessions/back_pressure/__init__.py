"""Back-pressure: what happens when clients do not read their answers.

An answer can be 64 MiB: whole rows of logits. gRPC sends it only as fast as the client reads.
Unread answers would fill the memory, and everybody would wait for the slowest reader.

What can go wrong, what bounds it, and the test that shows it (tests/server/back_pressure):

1. One stream sends steps and reads nothing. `Backlog` bounds its unanswered steps (4), and the
   bytes of their answers (64 MiB). The stream is then not read from, so gRPC's flow control stops
   its client. test_slow_reader::test_a_reader_that_never_reads_holds_little_and_holds_up_nobody
2. Many streams do so together. `AnswerMemory` bounds the bytes of all of them (--answer-memory),
   and later steps wait.
   test_slow_reader::test_many_readers_that_never_read_hold_no_more_than_the_memory_for_answers
3. Steps wait for a client that never reads. Each session owns room for one row, so a chat never
   waits for other clients. For larger answers `ReadingPace` measures how far each client lags
   behind 1 MiB a second. While a step waits, a client that lags by more than 20 s is cut off.
   test_slow_reader::test_a_reader_that_never_reads_loses_its_connection_when_others_need_the_memory
4. A session ends, but gRPC still holds its unread answers. They count as shared memory, and no
   session is opened while more is used than there is.
   test_answer_memory::test_what_an_ended_session_has_left_unread_counts_as_shared
5. gRPC's server can neither cancel a call nor close a connection. `cut_off` shuts the socket down
   underneath it. The sessions of that connection are parked. test_connections

A step goes through these in this order: `Backlog.add` waits for the stream's own bound, then for
`AnswerMemory.reserve`. Only then does the engine get the step. `Backlog.sending` and
`Backlog.sent` enclose the sending of its answer, and the second frees the memory. When a stream
ends, `Backlog.clear` frees the rest.

Why one bound a stream is not enough: a bound that suits one reader (two answers of 4.4 MiB) let
eight readers leave 16 answers unread in a memory for two, and test 2 failed. Divided by the number
of sessions, it refused the large steps of tests 2 and 3. Cutting off every client that pauses, also
while nobody waits, made test 3 fail.

When gRPC's server ends by itself, the listener replaces it (`stip_server.rpc.listener`). The new
server does not count the old connections, so `cut_off_others` ends those without a session.
"""
