# One binary on a small base. Build: docker build -t onair .
# Run: docker run --stop-timeout 20 --read-only --cap-drop ALL --network host -v onair:/var/lib/onair \
#        -e LIVEKIT_KEYS='key: 32 bytes or more' -e JWT_SECRET='32 bytes or more' onair
# Without --network host: -p 7880:7880 -p 7881:7881 -p 7882:7882/udp, and --node-ip ADDRESS-OF-THE-HOST --udp-port 7882
# behind the image's name. deploy/README.md has the rest: compose, proxies, backup, upgrades.
FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p onair --bin onair \
    && cp target/release/onair /onair

FROM debian:bookworm-slim
# Whom calls over https trust: the identity service, webhooks, another media server. The slim base has none.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /onair /usr/local/bin/onair
# Any user that may write here will do: nothing else is written, and no port is below 1024.
RUN install -d -o 65534 -g 65534 -m 700 /var/lib/onair
ENV LIVEKIT_STORE_PATH=/var/lib/onair
VOLUME /var/lib/onair
USER 65534:65534
# HTTP and WebSocket, ICE over TCP, media over UDP.
EXPOSE 7880/tcp 7881/tcp 7882/udp
# The check reads the configuration as the server does, from the environment: change ports by LIVEKIT_CONFIG or
# LIVEKIT_PORT rather than by arguments.
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s --retries=3 CMD ["/usr/local/bin/onair", "health"]
# SIGTERM drains: clients are told to leave, see README.md.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/onair"]
