"""Texts of our own in many languages and shapes, to measure estimates against a tokenizer."""

from __future__ import annotations

import json

PROSE: dict[str, str] = {
    "English": """An agency builds applications for its clients, and each of them calls a language
model many times a day. At the end of the month somebody has to say who used what. The numbers must
be right, because they become an invoice; and they must be there, even if a machine lost its power
in the middle of the night. We count every call once, we keep what we counted on a disk, and we say
plainly where we could only estimate.""",
    "German": """Eine Agentur baut Anwendungen für ihre Kunden, und jede davon ruft am Tag sehr oft
ein Sprachmodell auf. Am Ende des Monats muss jemand sagen, wer wie viel verbraucht hat. Die Zahlen
müssen stimmen, denn aus ihnen wird eine Rechnung; und sie müssen da sein, auch wenn ein Rechner
mitten in der Nacht den Strom verloren hat. Wir zählen jeden Aufruf genau einmal.""",
    "French": """Une agence construit des applications pour ses clients, et chacune appelle un
modèle de langage plusieurs fois par jour. À la fin du mois, quelqu'un doit dire qui a consommé
quoi. Les chiffres doivent être justes, car ils deviennent une
facture ; et ils doivent exister, même si
une machine a perdu le courant au milieu de la nuit. Nous comptons chaque appel une seule fois.""",
    "Spanish": """Una agencia construye aplicaciones para sus clientes, y cada una llama a un modelo
de lenguaje muchas veces al día. Al final del mes alguien tiene que decir quién gastó cuánto. Las
cifras deben ser correctas, porque se convierten en una factura; y deben estar ahí, aunque una
máquina se quede sin corriente en mitad de la noche. Contamos cada llamada una sola vez.""",
    "Polish": """Agencja tworzy aplikacje dla swoich klientów, a każda z nich wielokrotnie w ciągu
dnia wywołuje model językowy. Pod koniec miesiąca ktoś musi powiedzieć, kto ile zużył. Liczby muszą
się zgadzać, ponieważ powstaje z nich faktura; i muszą istnieć, nawet jeśli komputer stracił
zasilanie w środku nocy. Każde wywołanie liczymy dokładnie jeden raz.""",
    "Turkish": """Bir ajans müşterileri için uygulamalar geliştirir ve her biri günde defalarca bir
dil modelini çağırır. Ayın sonunda birinin kimin ne kadar kullandığını söylemesi gerekir. Sayılar
doğru olmalıdır, çünkü onlardan bir fatura çıkar; ve gecenin ortasında bir makinenin elektriği
kesilse bile orada olmalıdırlar. Her çağrıyı yalnızca bir kez sayarız.""",
    "Vietnamese": """Một công ty xây dựng các ứng dụng cho khách hàng của mình, và mỗi ứng dụng gọi
một mô hình ngôn ngữ nhiều lần trong ngày. Cuối tháng phải có người nói ai đã dùng bao nhiêu. Các
con số phải đúng, vì chúng sẽ trở thành hóa đơn; và chúng phải còn đó, ngay cả khi một máy bị mất
điện giữa đêm. Chúng tôi đếm mỗi lần gọi đúng một lần.""",
    "Russian": """Агентство создаёт приложения для своих клиентов, и каждое из них много раз в день
обращается к языковой модели. В конце месяца кто-то должен сказать, кто сколько израсходовал. Цифры
должны быть верными, потому что из них получается счёт; и они должны сохраниться, даже если посреди
ночи у машины пропало питание. Мы считаем каждый вызов ровно один раз.""",
    "Greek": """Ένα γραφείο φτιάχνει εφαρμογές για τους πελάτες του, και καθεμία καλεί ένα γλωσσικό
μοντέλο πολλές φορές την ημέρα. Στο τέλος του μήνα κάποιος πρέπει να πει ποιος χρησιμοποίησε τι. Οι
αριθμοί πρέπει να είναι σωστοί, γιατί από αυτούς βγαίνει το τιμολόγιο.""",
    "Arabic": """تبني الوكالة تطبيقات لعملائها، وكل تطبيق يستدعي نموذجًا لغويًا مرات كثيرة في اليوم.
وفي نهاية الشهر يجب أن يقول أحدهم من استهلك ماذا. يجب أن تكون الأرقام صحيحة لأنها تتحول إلى فاتورة،
ويجب أن تبقى موجودة حتى لو انقطعت الكهرباء عن جهاز في منتصف الليل. نحن نحسب كل استدعاء مرة واحدة
فقط.""",
    "Hebrew": """סוכנות בונה יישומים עבור לקוחותיה, וכל אחד מהם קורא למודל שפה פעמים רבות ביום. בסוף
החודש מישהו צריך לומר מי השתמש בכמה. המספרים חייבים להיות נכונים, כי הם הופכים לחשבונית; והם חייבים
להישמר גם אם מחשב איבד מתח באמצע הלילה.""",
    "Hindi": """एक एजेंसी अपने ग्राहकों के लिए एप्लिकेशन बनाती है, और हर एप्लिकेशन दिन में कई बार एक
भाषा मॉडल को बुलाता है। महीने के अंत में किसी को बताना होता है कि किसने कितना उपयोग किया। संख्याएँ सही
होनी चाहिए, क्योंकि उनसे बिल बनता है।""",
    "Thai": """เอเจนซีสร้างแอปพลิเคชันให้ลูกค้า และแต่ละแอปเรียกใช้โมเดลภาษาหลายครั้งต่อวัน
เมื่อสิ้นเดือนต้องมีคนบอกว่าใครใช้ไปเท่าไร ตัวเลขต้องถูกต้อง เพราะจะกลายเป็นใบแจ้งหนี้
และต้องยังอยู่แม้เครื่องจะไฟดับกลางดึก""",
    "Korean": """에이전시는 고객을 위해 애플리케이션을 만들고, 각 애플리케이션은 하루에도 여러 번
언어 모델을 호출합니다. 월말에는 누가 얼마나 사용했는
지 누군가 말해야 합니다. 숫자는 청구서가 되기 때문에
정확해야 하며, 한밤중에 컴퓨터의 전원이 나가더라도 남아 있어야 합니다.""",
    "Japanese": """代理店は顧客のためにアプリケーションを作り、それぞれが一日に何度も言語モデルを
呼び出します。月末には、誰がどれだけ使ったのかを誰かが言わなければなりません。数字は
請求書になるので正しくなければならず、真夜中に機械の電源が落ちても残っていなければなりません。""",
    "Chinese": """代理公司为客户开发应用程序，
每个应用程序每天都会多次调用语言模型。到了月底，必须有人
说清楚谁用了多少。这些数字必须正确，因为它们会变成账单；即使半夜有一台机器断电，它们也必须
还在。每次调用我们只计算一次，估算的地方我们会明确说明。""",
}

CODE: dict[str, str] = {
    "Python": '''class Ledger:
    """Rows as they were received, in order."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._rows: list[Row] = []
        self._path = path
        self._clock = clock

    def append(self, record: UsageRecord, *, closes: int = 0) -> int:
        if record.input_tokens < 0 or record.output_tokens < 0:
            raise InvalidRecord(f"negative count: {record!r}")
        for row in reversed(self._rows[-16:]):
            if row.sequence == record.sequence and row.producer == record.producer:
                return row.number  # it was here before
        self._rows.append(Row(len(self._rows) + 1, record, self._clock.now()))
        return self._rows[-1].number
''',
    "TypeScript": """export async function meter<T>(call: () => Promise<T>, tags: Tags) {
  const started = performance.now();
  try {
    const answer = await call();
    queue.push({ ...tags, usage: (answer as any).usage ?? null, ms: elapsed(started) });
    return answer;
  } catch (error) {
    if (error instanceof RateLimitError && error.headers?.["x-meterd-refused"] === "quota") {
      throw new QuotaExceeded(tags.client, error.message);
    }
    throw error;
  } finally {
    if (queue.length >= 100) void flush();
  }
}
""",
    "SQL": """SELECT clients.name, sum(rollup.input_tokens) AS input_tokens,
       sum(rollup.output_tokens) AS output_tokens, count(DISTINCT rollup.day) AS days
  FROM rollup_day AS rollup JOIN clients ON clients.id = rollup.client
 WHERE rollup.day BETWEEN '2026-11-01' AND '2026-11-30' AND clients.name LIKE 'acme-%'
 GROUP BY clients.name HAVING sum(rollup.input_tokens) > 1000000
 ORDER BY 2 DESC LIMIT 20;
""",
    "Go": """func (s *Spool) Append(r Record) (int64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil {
		return 0, fmt.Errorf("spool %q: %w", s.path, s.refused)
	}
	frame := make([]byte, 8, 8+r.Size())
	binary.LittleEndian.PutUint32(frame, uint32(r.Size()))
	for n := range s.open {
		if s.open[n].ID == r.ID {
			delete(s.open, n)
		}
	}
	s.next++
	return s.next, nil
}
""",
    "HTML": """<table class="rollup" data-month="2026-11">
  <thead><tr><th>Client</th><th>Requests</th><th>Tokens</th><th>Cost</th></tr></thead>
  <tbody>
    <tr><td><a href="/clients/acme-corp">Acme Corporation</a></td><td>45,890</td>
        <td>12.7M</td><td class="amount">$31.42</td></tr>
    <tr><td><a href="/clients/techstartup">Tech Startup &amp; Co</a></td><td>8,120</td>
        <td>1.9M</td><td class="amount">$5.23</td></tr>
  </tbody>
</table>
""",
    "log lines": """2026-11-25T21:26:54.103Z INFO  meterd.ingest producer=web-1 batch=100 ms=3.1
2026-11-25T21:26:54.207Z INFO  meterd.store commit rows=100 watermark=4810 wal_bytes=1048576
2026-11-25T21:26:55.001Z WARN  meterd.quota client=acme-corp used=1934201 limit=2000000 share=0.967
2026-11-25T21:26:55.340Z ERROR meterd.hooks command exit=127 path=/usr/local/bin/tell-owner
""",
}

MARKDOWN = """## What was done

1. **Spool**: segments are sealed by size, see `segment.py`.
2. **Ledger**: rows are appended in one transaction.

| client | tokens | cost |
|---|---:|---:|
| acme-corp | 3,214,880 | $8.47 |
| bigco-inc | 12,700,113 | $31.42 |

> Counted exactly once, or we say so.
"""

JSON = json.dumps(
    {
        "orders": [
            {"id": 10_000 + n, "sku": f"AX-{n * 37 % 1000:03d}", "price": 12.5 + n / 8,
             "in_stock": n % 3 > 0, "tags": ["new", "sale"][: n % 3], "note": None}
            for n in range(12)
        ]
    },
    indent=1,
)  # fmt: skip

TEXTS: dict[str, str] = {
    **PROSE,
    **CODE,
    "Markdown": MARKDOWN,
    "JSON": JSON,
    "compact JSON": json.dumps(json.loads(JSON), separators=(",", ":")),
}
