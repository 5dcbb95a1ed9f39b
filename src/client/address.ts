// Where a box is. The same text means the same box to clients and to boxes whose functions reach others.

export {
  type BoxAddress,
  formatAddress,
  isOnion,
  ONION_PORT,
  parseAddress,
  tryParseAddress,
} from "../wire/box-address.ts";
