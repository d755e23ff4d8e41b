"""Half an hour of everything at once, and the proof that nothing was lost, nothing wrong and nothing leaked.

    python -m benchmarks.soak [--minutes 30] [--http-port 8000] [--grpc-port 9000] [--seed 0] [--into .cache/benchmarks]

It starts configs/local.yaml with two replicas of each deployment and puts on it, all at the same time: callers of every
protocol with pictures of every format and many sizes, whose answers are computed beforehand by the same decoder on
eager torch; requests that must be refused, and how; clients that leave in the middle of an upload, of an answer or of
a stream; deadlines too short to be kept; bodies that trickle; bursts beyond capacity; and kill -9 of a replica now and
then. Meanwhile it watches every process of the service.

    questions   pictures and their answers        asking       requests over HTTP and what to make of the answers
    calling     the same over gRPC                misuse       what must be refused
    clients     who asks what and when            ledger       what became of every request
    census      what each process holds           verdict      what must hold at the end
    session     one soak from start to stop       story        what is told and drawn
"""
