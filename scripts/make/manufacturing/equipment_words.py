"""Wordings of requests to equipment and of the replies where nothing may be called; all made up here.

ASKED: language, then (action, what is left out or None, mode of a stop or None).
"""

from __future__ import annotations

KINDS = {
    "en": {"P": "pump", "C": "conveyor", "M": "mixer", "E": "extruder", "F": "furnace", "D": "dryer"},
    "zh": {"P": "泵", "C": "输送机", "M": "搅拌机", "E": "挤出机", "F": "加热炉", "D": "烘干机"},
}
WORK = {
    "en": ("lubrication", "calibration", "inspection", "overhaul"),
    "zh": ("润滑", "校准", "点检", "大修"),
}
ASKED = {
    "en": {
        ("start", None, None): ("Start {tag}.", "Please bring {tag} into operation.", "Switch {tag} on now."),
        ("start", "tag", None): ("Start it up, please.", "Switch the machine on.", "We are ready, start."),
        ("stop", None, "normal"): ("Stop {tag}.", "Shut {tag} down, no hurry.", "End of shift: take {tag} out of operation."),
        ("stop", None, "emergency"): ("Emergency stop on {tag}!", "A hand is caught, kill {tag} at once!",
                                    "Smoke from {tag}: emergency stop now."),
        ("stop", "tag", "normal"): ("Shut it down, please.", "Stop the machine at the end of the shift."),
        ("stop", "tag", "emergency"): ("Emergency stop, quick!", "There is smoke, hit the emergency stop!"),
        ("speed", None, None): ("Set {tag} to {rpm} rpm.", "Run {tag} at {rpm} r/min.", "Speed of {tag}: {rpm} rpm, please."),
        ("speed", "tag", None): ("Set the speed to {rpm} rpm.", "Run it at {rpm} r/min."),
        ("speed", "speed", None): ("Run {tag} faster.", "Change the speed of {tag}.", "{tag} is too slow, turn it up."),
        ("temperature", None, None): ("Set {tag} to {celsius} °C.", "Heat {tag} to {celsius} degrees Celsius.",
                                  "Temperature setpoint of {tag}: {celsius} °C."),
        ("temperature", "tag", None): ("Set the temperature to {celsius} °C.", "Heat it to {celsius} degrees Celsius."),
        ("temperature", "temperature", None): ("Make {tag} a bit hotter.", "Change the setpoint of {tag}.",
                                             "{tag} is too hot, turn it down."),
        ("alarms", None, None): ("Which alarms did {tag} have in the last {hours} h?",
                             "Show the alarms of {tag} of the past {hours} hours."),
        ("alarms", "tag", None): ("Which alarms were there in the last {hours} h?", "Alarms of the past {hours} hours?"),
        ("maintenance", None, None): ("Plan {work} of {tag} for {date}.", "Book {tag} for {work} on {date}."),
        ("maintenance", "tag", None): ("Plan {work} for {date}.", "Book a slot for {work} on {date}."),
        ("maintenance", "date", None): ("Plan {work} of {tag}.", "Book {tag} for {work} some time soon."),
    },
    "zh": {
        ("start", None, None): ("启动{tag}。", "请把{tag}投入运行。", "现在开{tag}。"),
        ("start", "tag", None): ("请启动一下。", "把机器开起来。", "准备好了，开机。"),
        ("stop", None, "normal"): ("停{tag}。", "请正常停下{tag}，不急。", "交班了，{tag}停机。"),
        ("stop", None, "emergency"): ("{tag}紧急停机！", "有人手被夹住，立即急停{tag}！", "{tag}冒烟，马上急停。"),
        ("stop", "tag", "normal"): ("请停一下机。", "交班时把机器停了。"),
        ("stop", "tag", "emergency"): ("快，紧急停机！", "冒烟了，按急停！"),
        ("speed", None, None): ("把{tag}转速设为{rpm}转/分。", "{tag}按{rpm} r/min运行。", "{tag}转速调到{rpm}转每分钟。"),
        ("speed", "tag", None): ("把转速设为{rpm}转/分。", "按{rpm} r/min运行。"),
        ("speed", "speed", None): ("把{tag}开快一点。", "调一下{tag}的转速。", "{tag}太慢了，提速。"),
        ("temperature", None, None): ("把{tag}温度设为{celsius}℃。", "{tag}加热到{celsius}摄氏度。",
                                     "{tag}温度设定值改为{celsius}℃。"),
        ("temperature", "tag", None): ("把温度设为{celsius}℃。", "加热到{celsius}摄氏度。"),
        ("temperature", "temperature", None): ("把{tag}温度调高一点。", "改一下{tag}的温度设定。", "{tag}太热了，降温。"),
        ("alarms", None, None): ("{tag}最近{hours}小时有哪些报警？", "查{tag}过去{hours}小时的报警。"),
        ("alarms", "tag", None): ("最近{hours}小时有哪些报警？", "查一下过去{hours}小时的报警。"),
        ("maintenance", None, None): ("{date}给{tag}安排{work}。", "预约{tag}在{date}做{work}。"),
        ("maintenance", "tag", None): ("{date}安排{work}。", "预约{date}做{work}。"),
        ("maintenance", "date", None): ("给{tag}安排{work}。", "预约{tag}近期做{work}。"),
    },
}  # fmt: skip
NEED = {
    "en": {"need": "Need: {}", "tag": "equipment tag", "speed": "speed in rpm", "temperature": "temperature in °C",
           "date": "date"},
    "zh": {"need": "需要补充：{}", "tag": "设备位号", "speed": "转速（转/分）", "temperature": "温度（℃）", "date": "日期"},
}  # fmt: skip
REFUSED = {
    "en": {
        ("range", "speed"): "Refused: {tag} takes {low} to {high} rpm.",
        ("range", "temperature"): "Refused: {tag} takes {low} to {high} °C.",
        ("lacks", "speed"): "Refused: {tag} has no speed control.",
        ("lacks", "temperature"): "Refused: {tag} has no temperature control.",
        ("unknown", None): "Refused: {tag} is not on this line.",
    },
    "zh": {
        ("range", "speed"): "拒绝执行：{tag}允许{low}至{high}转/分。",
        ("range", "temperature"): "拒绝执行：{tag}允许{low}至{high}℃。",
        ("lacks", "speed"): "拒绝执行：{tag}不能调速。",
        ("lacks", "temperature"): "拒绝执行：{tag}不能控温。",
        ("unknown", None): "拒绝执行：本线没有{tag}。",
    },
}
