# docker build -t discern .                                    without a GPU
# docker build -t discern:cuda --build-arg DEVICE=cuda .       for NVIDIA's GPUs
FROM python:3.11-slim
ARG DEVICE=cpu
# Another package index: --build-arg PIP_INDEX_URL=URL
ARG PIP_INDEX_URL

# PyPI's torch for Linux has CUDA; PyTorch's own index has one without, a tenth of its size.
RUN case "$DEVICE" in \
        cpu) index="--index-url https://download.pytorch.org/whl/cpu" ;; \
        cuda) index="" ;; \
        *) echo "DEVICE=$DEVICE is not allowed; it must be cpu or cuda." >&2; exit 1 ;; \
    esac \
    && pip install --no-cache-dir torch==2.14.1 torchvision==0.29.1 $index

WORKDIR /opt/discern
COPY pyproject.toml README.md LICENSE ./
COPY conf conf
COPY src src
RUN pip install --no-cache-dir '.[efficientnet-lite]'

# A home and a working folder for whatever user --user names.
RUN mkdir -m 1777 /home/discern /experiments
ENV HOME=/home/discern
USER 1000
WORKDIR /experiments
ENTRYPOINT ["discern"]
CMD ["--help"]
