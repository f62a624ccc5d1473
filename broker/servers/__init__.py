"""The brokers that Vigil runs itself: amqtt inside the process, or a supervised Mosquitto."""

__all__: list[str] = []
