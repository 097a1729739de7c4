FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential git libgl1 libglib2.0-0 \
    && rm -rf /var/lib/apt/lists/*

WORKDIR /afan_mm
COPY . .
RUN make setup && rm -rf /root/.cache

ENV PATH=/afan_mm/.venv/bin:$PATH
CMD ["afan", "env"]
