/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What becomes of a frame: the twin of src/verdict.rs. */
#ifndef ONEIP_VERDICT_H
#define ONEIP_VERDICT_H

/* Between PASSED and FORWARDED, a reason to drop it: the number of the Reason, and 1. */
enum verdict {
	PASSED,
	NO_SERVICE,
	MALFORMED,
	LOOP,
	TTL,
	NO_SERVER,
	UNRESOLVED,
	TX_FULL,
	RX_FULL,
	STRAY,
	PASS_FULL,
	OTHER_SERVER,
	TOO_BIG,
	UNTRUSTED,
	DENIED,
	LIMITED,
	FORWARDED,
	VERDICTS
};

#endif
