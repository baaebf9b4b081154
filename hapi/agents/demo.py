"""A small agent that speaks real ACP over stdio: `python -m hapi.agents.demo`. It needs no model and no key.

The agent is `demo_chat`. This is only its door: as a program that the interpreter runs it would be compiled anew at
every start, which takes longer than all the rest; a module is compiled once.
"""

import os
import sys

if __name__ == "__main__":
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))  # run by its path
    from hapi.agents.demo_chat import main

    main()
