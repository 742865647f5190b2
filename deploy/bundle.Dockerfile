# A bundle as an image, which the pods copy it from; the context is the bundle's folder, and NAME is the model's name:
#   docker build -f deploy/bundle.Dockerfile --build-arg NAME=intent -t intent:1 runs/intent/bundle
FROM busybox:1.37.0
ARG NAME
COPY --chmod=755 . /bundles/${NAME}
USER 10001:10001
