"""Serves MongoDB's protocol on loopback until standard input ends, and then leaves nothing behind.

Standard input ends with the test process, however that ends.

    mongo.py PORT DIRECTORY [ARGUMENT OF THE SERVER]...
"""

import os
import shutil
import sys
import threading

from secantus.cli import main


def leave_with_the_parent(directory):
    sys.stdin.buffer.read()
    shutil.rmtree(directory, ignore_errors=True)
    os._exit(0)


port, directory, *arguments = sys.argv[1:]
threading.Thread(target=leave_with_the_parent, args=(directory,), daemon=True).start()
# No configuration file of the machine has a say.
config = os.path.join(directory, "secantusd.toml")
open(config, "a").close()
sys.argv[1:] = ["--config", config, "--port", port, "--storage-path", os.path.join(directory, "data"), *arguments]
sys.exit(main())
