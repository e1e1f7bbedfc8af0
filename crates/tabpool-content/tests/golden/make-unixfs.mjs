// Computes the CIDs in unixfs.json with ipfs-unixfs-importer, an implementation of UnixFS that shares no code with
// ours. Run it in an empty folder with Node 20:
//
//     npm i --ignore-scripts ipfs-unixfs-importer@17 blockstore-core@7
//     cp .../make-unixfs.mjs . && node make-unixfs.mjs > .../unixfs.json
//
// The options are those of `ipfs add --cid-version=1 --chunker=size-N`: raw leaves, sha2-256, balanced, 174 wide.

import { MemoryBlockstore } from 'blockstore-core/memory'
import { importer } from 'ipfs-unixfs-importer'
import { fixedSize } from 'ipfs-unixfs-importer/chunker'
import { balanced } from 'ipfs-unixfs-importer/layout'

const MIB = 1024 * 1024

/** The same bytes as `sample` in the Rust test: byte i is (i * i + 7 * i + seed) mod 251. */
function sample (length, seed = 0) {
  const bytes = new Uint8Array(length)
  for (let i = 0; i < length; i++) bytes[i] = (i * i + 7 * i + seed) % 251
  return bytes
}

async function run (files, chunkSize, wrap) {
  let last
  for await (const entry of importer(files, new MemoryBlockstore(), {
    cidVersion: 1,
    rawLeaves: true,
    reduceSingleLeafToSelf: true,
    wrapWithDirectory: wrap,
    chunker: fixedSize({ chunkSize }),
    layout: balanced({ maxChildrenPerNode: 174 })
  })) last = entry
  return last.cid.toString()
}

const files = []
for (const [length, chunkSize] of [
  [0, MIB], [1, MIB], [1000, MIB], [MIB - 1, MIB], [MIB, MIB], [MIB + 1, MIB], [3 * MIB + 17, MIB],
  // Small chunks reach the width and the second and third level without large inputs.
  [174 * 16, 16], [174 * 16 + 1, 16], [175 * 16 + 5, 16], [174 * 174 * 16, 16], [174 * 174 * 16 + 1, 16]
]) {
  files.push({ length, chunk_size: chunkSize, cid: await run([{ path: 'f', content: sample(length) }], chunkSize, false) })
}

const trees = []
for (const entries of [
  [],
  [['config.json', 120]],
  [['vocab.txt', 5000], ['config.json', 120], ['1_Pooling/config.json', 33], ['B.txt', 1], ['empty', 0],
    ['deep/er/still/x.bin', MIB + 5], ['ünïcode.txt', 9], ['a.b', 3], ['a', 2], ['a-b', 4]]
]) {
  const input = entries.map(([path, length], seed) => ({ path, content: sample(length, seed) }))
  const cid = entries.length === 0
    // An empty folder has no file to wrap, so it is given as a directory entry.
    ? await run([{ path: 'd' }], MIB, false)
    : await run(input, MIB, true)
  trees.push({ files: entries.map(([path, length]) => ({ path, length })), cid })
}

console.log(JSON.stringify({ importer: 'ipfs-unixfs-importer 17', files, trees }, null, 2))
