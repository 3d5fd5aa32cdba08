# A container in which everything runs: docker build -t ditto . && docker run --rm -v "$PWD/runs:/work/runs" ditto generate
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes --no-install-recommends g++ make git && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home ditto && mkdir /work && chown ditto /work
ENV UV_SYSTEM_PYTHON=1
RUN pip install --no-cache-dir uv
COPY . /src
RUN uv pip install --no-cache --torch-backend=cpu --constraint /src/constraints.txt /src
USER ditto
WORKDIR /work
ENTRYPOINT ["ditto"]
