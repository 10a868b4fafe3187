# edgeopt with all that its checks need: the CPU build of torch, compilers for C on this machine and on Cortex-M, the emulator.
#   docker build -t edgeopt .
#   docker run --rm -v "$PWD:/home/edgeopt/job" edgeopt run recipe.yaml --out out
#   docker run --rm -v "$PWD:/home/edgeopt/job" edgeopt gate out/report.json
FROM python:3.12-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends gcc libc6-dev gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm \
    && rm -rf /var/lib/apt/lists/*

COPY . /src
# torch's own index has a build without CUDA: a tenth of the size
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && pip install --no-cache-dir /src \
    && rm -rf /src

RUN useradd --create-home edgeopt
USER edgeopt
WORKDIR /home/edgeopt/job
ENTRYPOINT ["edgeopt"]
CMD ["--help"]
