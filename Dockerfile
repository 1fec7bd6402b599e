# The server, its client and the converter, with the bundled model. docs/deployment.md says how to run it.
#
#   docker build --tag kascade-serve:0.1.0 .
#
# TESTS=ON also builds and runs the fast tests. REVISION is the commit, for a label.
ARG BASE=debian:bookworm-slim

# ---- What compiling needs ----
# hadolint ignore=DL3006
FROM ${BASE} AS dependencies
ARG TESTS=OFF
WORKDIR /source
COPY run ./
RUN ./run packages "$([ "$TESTS" = ON ] && echo test || echo build)" && rm -rf /var/lib/apt/lists/*

# ---- The programs ----
FROM dependencies AS build
ARG TESTS=OFF
ARG JOBS=
COPY . .
# A builder may give the compiler cache of an earlier build as /ccache.
RUN export CCACHE_DIR=/ccache KASCADE_JOBS="$JOBS" CCACHE_BASEDIR=/source CCACHE_NOHASHDIR=1 LANG=C.UTF-8 && ./run build && \
    if [ "$TESTS" = ON ]; then ./run test release -L fast; fi && \
    cmake --install build/release --prefix /installed/usr --strip && \
    mkdir -p /installed/usr/share/kascade/models && cp -r models/demo /installed/usr/share/kascade/models/

# ---- What runs ----
# hadolint ignore=DL3006
FROM ${BASE} AS runtime
# Security updates of the base come with the newest versions, so that none is pinned.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends \
      ca-certificates libdnnl2 libgomp1 libgrpc++1.51 libpcre2-8-0 libprometheus-cpp-core1.0 libspdlog1.10 \
      libssl3 libutf8proc2 libyaml-cpp0.7 && \
    rm -rf /var/lib/apt/lists/* && \
    install -d -o 65532 -g 65532 /var/lib/kascade /var/cache/kascade
COPY --from=build /installed/ /
# The bill of materials: the packages of Debian in this image, as SPDX.
COPY tools/bill_of_materials.sh /usr/share/doc/kascade-serve/
RUN sh /usr/share/doc/kascade-serve/bill_of_materials.sh >/usr/share/doc/kascade-serve/sbom.spdx.json

ARG REVISION=unknown
LABEL org.opencontainers.image.title="kascade-serve" \
      org.opencontainers.image.description="Serves a Llama model over gRPC with calibrated sparse attention." \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV KASCADE_SERVER_LISTEN=0.0.0.0:50051 KASCADE_SERVER_METRICS_LISTEN=0.0.0.0:9464
EXPOSE 50051 9464
USER 65532:65532
WORKDIR /
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=10s --start-period=10m --retries=3 \
  CMD ["kascade", "--timeout", "5", "health"]
ENTRYPOINT ["kascade-server"]
CMD ["--model", "/usr/share/kascade/models/demo"]
