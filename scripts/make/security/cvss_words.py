"""How the values of CVSS v3.1 base metrics are told in words, in English and Chinese; all made up here.

Meanings: https://www.first.org/cvss/v3.1/specification-document, section 2. A race, a man in the middle and knowledge
of the target are high complexity (2.1.2); a configuration that is not the default is not.
"""

from __future__ import annotations

EN = {
    "AV": {
        "N": ("It can be attacked over the internet.", "Any host that can route packets to it can attack.",
              "A remote attacker reaches it through the network."),
        "A": ("The attacker must be on the same Wi-Fi.", "Only hosts of the same local segment can attack.",
              "It is reached from a neighbour over Bluetooth only."),
        "L": ("The attacker must run a program on the machine itself.", "It needs a local shell.",
              "A process on the same host triggers it."),
        "P": ("The attacker must touch the device.", "A prepared USB stick must be plugged in by hand.",
              "It needs physical access to the board."),
    },
    "AC": {
        "L": ("The attack works every time.", "No special conditions are needed.", "It can be repeated at will."),
        "H": ("The attacker must win a race.", "It works only for a man in the middle.",
              "Details of this one installation must be learnt first."),
    },
    "PR": {
        "N": ("No account is needed.", "The attacker need not log in.", "It happens before authentication."),
        "L": ("An ordinary user account is needed.", "Any logged-in user can do it.",
              "The attacker needs a login with basic rights."),
        "H": ("Administrator rights are needed.", "Only an account of an administrator can do it.",
              "The attacker must already be an admin."),
    },
    "UI": {
        "N": ("Nobody has to click on anything.", "No action of another user is needed.",
              "It runs without any victim taking part."),
        "R": ("A victim has to open a link.", "Some user must open a prepared file.",
              "It starts only when a user visits a page."),
    },
    "S": {
        "U": ("Only the product itself is affected.", "The damage stays within the product.",
              "Nothing outside the product is harmed."),
        "C": ("It breaks out of the sandbox and harms the host.", "Systems beyond the product are harmed too.",
              "From the guest it reaches the hypervisor."),
    },
    "C": {
        "N": ("No data is disclosed.", "Nothing can be read."),
        "L": ("Some data can be read, but not chosen.", "A few details leak."),
        "H": ("All stored data can be read.", "Every secret, keys included, leaks."),
    },
    "I": {
        "N": ("No data can be changed.", "Nothing can be written."),
        "L": ("Some data can be changed, without serious consequence.", "A few settings can be altered."),
        "H": ("Any file can be overwritten.", "All data can be changed at will."),
    },
    "A": {
        "N": ("The service keeps running.", "Availability does not suffer."),
        "L": ("The service becomes slower.", "Now and then a request fails."),
        "H": ("The service goes down completely.", "It crashes and stays down."),
    },
}  # fmt: skip
ZH = {
    "AV": {
        "N": ("可通过互联网攻击。", "能路由到它的任何主机都可发起攻击。", "远程攻击者经网络即可到达。"),
        "A": ("攻击者须接入同一Wi-Fi。", "只有同一网段的主机可以攻击。", "只能在蓝牙范围内攻击。"),
        "L": ("攻击者须在本机运行程序。", "需要本地命令行。", "由同一主机上的进程触发。"),
        "P": ("攻击者须接触到设备。", "须亲手插入特制U盘。", "需要物理接触电路板。"),
    },
    "AC": {
        "L": ("每次攻击都能成功。", "不需要特殊条件。", "可随意重复。"),
        "H": ("攻击者须赢得竞态。", "只有中间人才能利用。", "须先摸清该套系统的细节。"),
    },
    "PR": {
        "N": ("无需账号。", "攻击者不必登录。", "发生在认证之前。"),
        "L": ("需要普通用户账号。", "任何已登录用户都可利用。", "攻击者须有基本权限的登录。"),
        "H": ("需要管理员权限。", "只有管理员账号可以利用。", "攻击者须已是管理员。"),
    },
    "UI": {
        "N": ("无需任何人点击。", "不需要其他用户操作。", "受害者不参与也能触发。"),
        "R": ("受害者须打开链接。", "须有用户打开特制文件。", "用户访问页面时才触发。"),
    },
    "S": {
        "U": ("只影响产品本身。", "损害不超出该产品。", "产品以外不受影响。"),
        "C": ("可突破沙箱危及宿主机。", "产品以外的系统也受害。", "可从虚拟机到达虚拟化层。"),
    },
    "C": {
        "N": ("不泄露数据。", "无法读取任何内容。"),
        "L": ("可读取部分数据，但不能挑选。", "少量细节泄露。"),
        "H": ("可读取全部数据。", "包括密钥在内全部泄露。"),
    },
    "I": {
        "N": ("不能改动数据。", "无法写入任何内容。"),
        "L": ("可改动部分数据，后果不严重。", "少数设置可被改动。"),
        "H": ("可覆盖任意文件。", "可随意改动全部数据。"),
    },
    "A": {
        "N": ("服务照常运行。", "可用性不受影响。"),
        "L": ("服务变慢。", "偶有请求失败。"),
        "H": ("服务完全中断。", "崩溃后无法恢复。"),
    },
}  # fmt: skip
WORDS = {"en": EN, "zh": ZH}
FLAWS = {
    "en": ("A buffer overflow", "A flaw in input checks", "A use after free", "An injection flaw", "A parser error",
           "An integer overflow", "A path traversal"),
    "zh": ("缓冲区溢出", "输入校验缺陷", "释放后使用", "注入漏洞", "解析错误", "整数溢出", "路径遍历"),
}  # fmt: skip
PRODUCTS = {
    "en": ("Arden Mail", "Brook Router", "Calder HMI", "Dove Viewer", "Esk Gateway", "Fenix CMS", "Garnet VPN",
           "Holm Camera", "Isla Database", "Juno Printer"),
    "zh": ("青禾邮件", "云岭路由器", "海棠组态软件", "白鹭阅读器", "长汀网关", "听松建站系统", "石榴VPN",
           "望山摄像机", "远帆数据库", "竹溪打印机"),
}  # fmt: skip
