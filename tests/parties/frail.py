"""An object for a child process that comes to grief in every way; see test_parties_apart.py."""

import os
import signal
import time


class Frail:
    """Made from a greeting; each method is a misfortune, but for `echo`."""

    def __init__(self, greeting):
        self.greeting = greeting

    def echo(self, *parts):
        print("not an answer")
        return [*self.greeting, *(b for part in parts for b in part)]

    def crash(self):
        os.kill(os.getpid(), signal.SIGSEGV)

    def leave(self):
        os._exit(0)

    def hang(self):
        time.sleep(600)

    def eat(self):
        return [bytes(2**32)]

    def refuse(self):
        raise ValueError("Expected better.")

    def trip(self):
        raise KeyError

    def lie(self):
        return [12]
