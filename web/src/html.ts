export { fromHtml as fromHtmlIsomorphic } from "hast-util-from-html";
