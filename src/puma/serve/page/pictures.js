// The user's picture: taken from a file, a drop or the clipboard, made fit for the service, and as a data URI.
// It is sent as it is, bytes untouched, unless the service would refuse its size.

const limits = document.documentElement.dataset;
const MAX_BYTES = Number(limits.maxImageBytes) || 20 * 2 ** 20;
const MAX_PIXELS = Number(limits.maxImagePixels) || 40e6;
// A picture that must be scaled is scaled well below the limit: encoders look at far fewer pixels.
const SCALED_SIDES = [2048, 1024, 512, 256];
const SCALED_QUALITY = 0.9;

/** What the user gave is not a picture that can be sent; the message is for them. */
export class PictureError extends Error {}

/** The first picture among dropped or pasted things, or null. */
export function pictureIn(transfer) {
  return [...(transfer?.files ?? [])].find((file) => file.type.startsWith("image/")) ?? transfer?.files?.[0] ?? null;
}

/**
 * @param {File} file
 * @returns {Promise<{blob: Blob, name: string, preview: string, scaled: boolean}>} preview: an object URL.
 */
export async function fitPicture(file) {
  const name = file.name || "pasted picture";
  if (file.type === "image/svg+xml")
    throw new PictureError("SVG drawings cannot be searched with. Save it as PNG or JPEG first.");
  if (file.type && !file.type.startsWith("image/")) throw new PictureError(`${name} is not a picture.`);
  if (!file.size) throw new PictureError(`${name} is empty.`);
  const bitmap = await decode(file);
  let blob = file;
  const tooLarge = file.size > MAX_BYTES || (bitmap && bitmap.width * bitmap.height > MAX_PIXELS);
  if (tooLarge) {
    if (!bitmap)
      throw new PictureError(`${name} is too large to send, and of a kind this browser cannot make smaller.`);
    blob = await scaled(bitmap);
  }
  bitmap?.close();
  return { blob, name, preview: URL.createObjectURL(blob), scaled: tooLarge };
}

/** The picture as JSON can carry it. */
export function dataUri(blob) {
  return new Promise((done, failed) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result);
    reader.onerror = () => failed(new PictureError("The picture's file cannot be read any more."));
    reader.readAsDataURL(blob);
  });
}

// null: a kind the browser does not know (TIFF, say), which the service may still read.
async function decode(file) {
  try {
    return await createImageBitmap(file);
  } catch {
    return null;
  }
}

async function scaled(bitmap) {
  const byPixels = Math.sqrt(MAX_PIXELS / (bitmap.width * bitmap.height));
  for (const side of SCALED_SIDES) {
    const scale = Math.min(1, side / Math.max(bitmap.width, bitmap.height), byPixels);
    const blob = await drawn(bitmap, Math.floor(bitmap.width * scale), Math.floor(bitmap.height * scale));
    if (blob.size <= MAX_BYTES) return blob;
  }
  throw new PictureError("The picture is too large to send, even made smaller.");
}

function drawn(bitmap, width, height) {
  const canvas = new OffscreenCanvas(Math.max(1, width), Math.max(1, height));
  const brush = canvas.getContext("2d");
  brush.fillStyle = "#fff"; // JPEG has no transparency; the service also shows pictures on white
  brush.fillRect(0, 0, canvas.width, canvas.height);
  brush.imageSmoothingQuality = "high";
  brush.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  return canvas.convertToBlob({ type: "image/jpeg", quality: SCALED_QUALITY });
}
