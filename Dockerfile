# kvserve in a container: the wheel is built in one stage and installed in the other.
#
#   docker build -t kvserve .
#   docker run --name cache --ipc=shareable --shm-size=512m -v kvserve:/run/kvserve \
#       kvserve --memory 400MiB
#
# --shm-size     The table lies in /dev/shm, of which Docker gives 64 MiB. Take --memory and a
#                tenth more. With the default memory of 48 MiB the option is not needed.
# --ipc          A client in another container shares the server's IPC namespace, and with it
#                /dev/shm, semaphores and queues: start the server with --ipc=shareable and the
#                client with --ipc=container:cache. --ipc=host shares the host's with both; then
#                /dev/shm has the host's size and --shm-size does nothing.
# -v             The client needs the runtime directory too: give it the same volume, and
#                -e KVSERVE_RUNTIME_DIR=/run/kvserve.
# --user         The client runs as uid 10001, or as a member of gid 10001 when the server is
#                started with --group kvserve: clients connect to no server of a stranger's.
# --ulimit       Queues of the full depth: --ulimit msgqueue=16777216 --sysctl fs.mqueue.msg_max=64.
#                Without them kvserve lowers the depth and says so.
#
# A container's own /dev/shm goes when the container stops, and the table with it. Only with
# --ipc=host is a restarted server warm.

FROM python:3.13-slim AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN pip wheel --no-cache-dir --wheel-dir /wheels .

FROM python:3.13-slim
# Numbers of its own, so that clients in other images can be given the same.
RUN groupadd --gid 10001 kvserve \
    && useradd --uid 10001 --gid kvserve --no-create-home --shell /usr/sbin/nologin kvserve \
    && install --directory --owner=kvserve --group=kvserve --mode=0755 /run/kvserve
RUN --mount=type=bind,from=build,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links=/wheels kvserve
ENV KVSERVE_RUNTIME_DIR=/run/kvserve
VOLUME /run/kvserve
USER kvserve
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s --retries=3 CMD ["kvserve", "ping"]
ENTRYPOINT ["kvserve", "serve"]
