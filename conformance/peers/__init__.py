"""One small model behind other servers, as their own documentation shows it, for the table of results in the docs.

Each module runs in an environment of its own: ``pip install mlserver==1.7.1 'uvloop<0.22'``, ``pip install kserve``,
``pip install nvidia-pytriton``; then ``python -m conformance.peers.NAME HTTP_PORT GRPC_PORT``. What a request must look
like is left to the server: the model itself refuses nothing.
"""
