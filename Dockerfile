# The one image of the project; pods choose a subcommand with `args`. Layers change as seldom as what they hold: tools,
# then dependencies, then the package.

FROM debian:trixie-slim AS tools
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates gcc libc6-dev libfuse3-dev pkg-config python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# pip and setuptools stay in a virtual environment of their own and out of the image.
RUN python3 -m venv /opt/build && /opt/build/bin/pip install 'setuptools>=77' wheel

FROM tools AS dependencies
RUN python3 -m venv --without-pip /opt/headrace
COPY setup.cfg /src/
RUN python3 -c 'import configparser as c; p = c.ConfigParser(); p.read("/src/setup.cfg"); print(p["options"]["install_requires"])' \
        > /src/requirements.txt \
    && /opt/build/bin/pip --python /opt/headrace/bin/python install --prefer-binary -r /src/requirements.txt \
    # A third of the image: the second, asynchronous copy of the whole Kubernetes client, which nothing here imports.
    && rm -r /opt/headrace/lib/python3*/site-packages/kubernetes/aio \
    && /opt/headrace/bin/python -B -c 'import kubernetes.client, kubernetes.config, kubernetes.leaderelection' \
    && find /opt/headrace/lib -depth \( -name tests -o -name test \) -type d -exec rm -r {} + \
    # Hash-based and unchecked: the root file system is read-only, and copies need not keep the time of the sources.
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash /opt/headrace/lib

FROM dependencies AS package
WORKDIR /src
COPY . .
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/headrace/bin/python install --no-deps --root /stage /wheels/*.whl \
    # The extensions are optional elsewhere; an image without them would be slow without a word.
    && ls /stage/opt/headrace/lib/python3*/site-packages/fusemount/_shim*.so /stage/opt/headrace/lib/python3*/site-packages/fusemount/_pack*.so \
    && python3 -m compileall -q -j 0 --invalidation-mode unchecked-hash -s /stage /stage/opt/headrace/lib

FROM debian:trixie-slim
RUN apt-get update \
    && apt-get install --yes --no-install-recommends ca-certificates libfuse3-4 python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
COPY --from=dependencies /opt/headrace /opt/headrace
COPY --from=package /stage/ /
ENV PATH=/opt/headrace/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
    LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
LABEL org.opencontainers.image.title=headrace org.opencontainers.image.licenses=Apache-2.0
USER 65534:65534
WORKDIR /
ENTRYPOINT ["headrace"]
CMD ["--help"]
