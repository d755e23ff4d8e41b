#!/bin/sh
# HAProxy as Serve starts it (RAY_SERVE_HAPROXY_BINARY_PATH, set by scripts/ray_env.py), with what Serve's configuration
# of it has no setting for:
#
#   - what a replica had when it died without a word of an answer is sent to another one: nothing that Aperture does
#     changes anything, so that twice is as good as once
#   - for that, a request is passed on once its body is there, or a buffer full of it (RAY_SERVE_HAPROXY_TUNE_BUFSIZE): of
#     what is passed on piece by piece, HAProxy keeps nothing. A client that dribbles its request keeps no replica. Headers
#     stay as short as HAProxy's usual buffers would have them
#   - when no replica could answer, 503 with Retry-After, where Serve has 500 for it: sent again, it may well succeed
#   - the same for everything new while the service is being stopped (scripts/haproxy.py), and what is in flight is answered
#   - the same instead of 404 while HAProxy has not heard of any application yet, for instance after it has crashed
#   - an id that a client of gRPC gives its request is dropped, unless any log can repeat it
#
# Serve writes the configuration anew before each start. Where a line is not as expected, Serve's own stays.

# Of a body; as long as a request may take (limits.request_timeout_s).
BODY_TIME=30s
# Of the headers, which any client has at hand.
HEADERS_TIME=10s
HEADERS_BYTES=16384

UNAVAILABLE='{"error":"No replica could answer; send the request again.","code":"unavailable"}'
LONG='{"error":"The headers are too long.","code":"bad_request"}'
LATE='{"error":"The request did not arrive in time.","code":"deadline_exceeded"}'

# $1 status and reason, $2 headers, $3 body
answer() {
    printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\n%b' "$1" "$2"
    printf 'Content-Length: %d\r\n\r\n%s' "${#3}" "$3"
}

config=""
for argument in "$@"; do
    case $argument in */haproxy.cfg) config=$argument ;; esac
done

if [ -w "$config" ]; then
    folder=$(dirname "$config")
    # Serve names this file for 502, 503 and 504.
    answer "503 Service Unavailable" "Retry-After: 1\r\n" "$UNAVAILABLE" > "$folder/500.http"
    answer "408 Request Timeout" "" "$LATE" > "$folder/408.http"
    unavailable="http-request return status 503 content-type application/json string '$UNAVAILABLE' hdr Retry-After 1"
    # Of gRPC's metadata, which ends up in Serve's logs; with HTTP, deployments/edge.py sees to it.
    request_id='http-request del-header request_id if { req.fhdr_cnt(request_id) gt 1 } || !{ req.fhdr(request_id) -m reg ^[A-Za-z0-9._:-]{1,128}$ }'
    long="http-request return status 431 content-type application/json string '$LONG' if { req.hdrs,length gt $HEADERS_BYTES }"
    draining="$unavailable if { var(proc.draining) -m bool }"
    # gRPC's streams have no end of the body to wait for; of its calls these carry images.
    infer="/inference.GRPCInferenceService/ModelInfer /tensorflow.serving.PredictionService/Predict /tensorflow.serving.PredictionService/Classify"
    sed -i \
        -e "/^frontend http_frontend\$/,/^ *bind /{
            /^ *bind /a\\    timeout http-request $HEADERS_TIME\\n    $long\\n    $draining\\n    http-request wait-for-body time $BODY_TIME
        }" \
        -e "/^frontend grpc_frontend\$/,/^ *mode http\$/{
            /^ *mode http\$/a\\    $draining\\n    http-request wait-for-body time $BODY_TIME if { path $infer }\\n    $request_id
        }" \
        -e "s/^    retry-on conn-failure\$/& empty-response/" \
        -e "s|^    errorfile 502 .*|&\\n    errorfile 408 $folder/408.http|" \
        "$config"
    for protocol in http grpc; do
        # The backends of applications are named after their protocol.
        grep -q "^backend $protocol-" "$config" && continue
        default=$([ "$protocol" = http ] && echo default_backend || echo default_grpc_backend)
        sed -i -e "/^backend $default\$/a\\    $unavailable" "$config"
    done
fi

exec "${APERTURE_HAPROXY:-haproxy}" "$@"
