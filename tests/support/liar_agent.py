"""A small ACP agent that lies: it repeats the first message, is silent at the second, answers the third twice, and at
the fourth answers one that nobody sent. What counts messages must notice. Run as a program.
"""

import json
import re
import sys

LIES = {1: 1, 2: 0, 3: 2, 4: 1}


def send(**message):
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def answers(count, text):
    """What it says to its message number `count`."""
    text = re.sub(r"-\d+$", "-777", text) if count == 4 else text
    return [f"You said: {text}\n\n"] * LIES.get(count, 1)


def main():
    count = 0
    for line in sys.stdin:
        message = json.loads(line)
        params = message.get("params") or {}
        match message.get("method"):
            case "initialize":
                send(id=message["id"], result={"protocolVersion": 1, "agentCapabilities": {}, "authMethods": []})
            case "session/new":
                send(id=message["id"], result={"sessionId": "liar"})
            case "session/prompt":
                count += 1
                for text in answers(count, params["prompt"][0]["text"]):
                    content = {"type": "text", "text": text}
                    update = {"sessionUpdate": "agent_message_chunk", "content": content}
                    send(method="session/update", params={"sessionId": "liar", "update": update})
                send(id=message["id"], result={"stopReason": "end_turn"})
            case _ if "id" in message:
                send(id=message["id"], error={"code": -32601, "message": "Method not found"})


if __name__ == "__main__":
    main()
