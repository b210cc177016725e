# The commands in a box, with the versions that the tests run with.
#
#   docker build -t offline-distiller .
#   docker run --rm --init --gpus all --ipc host -u "$(id -u):$(id -g)" -v "$PWD:/data" offline-distiller \
#       label --shards 'data/train/*.tar' --out store.zarr
#
# Other extras: --build-arg EXTRAS=export,report,s3,wandb. `--compile` wants a C compiler, which is not in this image.
FROM python:3.13-slim

ARG EXTRAS=export,http,report,s3,tensorboard
COPY . /source
RUN sed -e '/^ *--hash/d' -e 's/ *\\$//' /source/requirements.lock > /source/constraints.txt \
    && pip install --no-cache-dir -c /source/constraints.txt "/source[$EXTRAS]" \
    && rm -r /source

RUN useradd --create-home distill && chmod 1777 /home/distill
USER distill
ENV HOME=/home/distill
WORKDIR /data
ENTRYPOINT ["distill"]
CMD ["--help"]
