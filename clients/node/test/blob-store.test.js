/** Downloads from a server that sends its devices to a blob store (docs/protocol.md, section 9.3). */

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { test } from 'node:test';

import { Http } from '../src/http.js';

const BLOB = Uint8Array.from({ length: 5000 }, (_, at) => at % 251);

async function serving(answer, use) {
  const listener = createServer(answer);
  await new Promise((resolve) => listener.listen(0, '127.0.0.1', resolve));
  try {
    return await use(`http://127.0.0.1:${listener.address().port}`);
  } finally {
    listener.closeAllConnections();
    listener.close();
  }
}

const sending = (location) => (request, response) => response.writeHead(307, { Location: location }).end();

test('a blob is fetched where the server sends for it', async () => {
  await serving(
    (request, response) => response.end(request.url === '/blob?signed=1' ? BLOB : ''),
    (store) =>
      serving(sending(`${store}/blob?signed=1`), async (server) => {
        assert.deepEqual(await new Http(server).download('/api/blobs/x', BLOB.length), BLOB);
      }),
  );
});

test('no other request is sent elsewhere', async () => {
  await serving(sending('http://127.0.0.1:9/'), async (server) => {
    await assert.rejects(new Http(server).exchange('GET', '/api/x'), { code: 'service-unavailable' });
  });
});

test('from a server behind TLS nobody is sent to a place without it', () => {
  const http = new Http('https://server');
  assert.equal(http.storeAddress('https://store/blob'), 'https://store/blob');
  for (const location of ['', '/blob', 'http://store/blob', 'ftp://store/blob', 'file:///etc/passwd'])
    assert.throws(() => http.storeAddress(location), { code: 'service-unavailable' });
});
