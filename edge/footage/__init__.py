"""Footage: what a node records, keeps, cuts into clips and delivers.

One :class:`Footage` a node; from it one :class:`CameraRecorder` a camera::

    footage = Footage(folder, settings.edge.footage, publish=publish_clip, clock=clock)  # raises; starts nothing
    footage.start()
    recorder = footage.camera("yard", camera.recording, masked=False)  # salvages what a crash left of this camera
    source = open_source(..., on_packet=recorder.on_packet)  # or, masked: recorder.on_picture(picture, ...)
    recorder.want("continuous", private=False)  # the mode that holds now
    recorder.movement(event)
    recorder.escalation(escalation)  # as they are published, or come from the bus
    recorder.request(start, end, correlation_id, answer)  # a clip on request
    state, error = recorder.state  # for CameraState.recording and its error
    recorder.close()
    footage.close()

`publish` puts a :class:`~broker.messages.ClipEvent` into the outbox and returns it with its id. Nothing here touches
GStreamer or an object store before the first picture, or clip, is written.
"""

from edge.footage.footage import Footage, FootageFigures
from edge.footage.recorder import CameraRecorder, RecorderFigures, RecordingMode, RecordingState

__all__ = ["CameraRecorder", "Footage", "FootageFigures", "RecorderFigures", "RecordingMode", "RecordingState"]
