# What a figure is worth depends on where it was measured.

# As JSON, into the report.
write_facts() {
    local vulnerabilities dut_ name
    vulnerabilities=$(for name in /sys/devices/system/cpu/vulnerabilities/*; do
        if ! grep -q '^Not affected' "$name"; then echo "${name##*/}: $(<"$name")"; fi
    done)
    {
        fact date "$(date -u +%FT%RZ)"
        fact commit "$commit"
        fact host "$(machine)"
        fact cpu "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)"
        fact cores "$(nproc)"
        fact memory "$(awk '/^MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo)"
        fact governor "$(cat /sys/devices/system/cpu/cpu0/cpufreq/scaling_governor 2>/dev/null || echo 'none that is visible')"
        fact mitigations "${vulnerabilities:-none}"
        fact kernel "$(uname -sr)"
        fact 'kernel options' "$(tr ' ' '\n' </proc/cmdline | grep -E '^(mitigations|isolcpus|nohz_full|rcu_nocbs|preempt|hugepages|intel_idle|processor)' | paste -sd' ' || true)"
        fact 'other load at the start' "$load_before (load average of the last minute)"
        fact interface "$(engine)"
        fact generator "$(generator_text)"
        fact cores\ used "generator and counting on core $generator_core, the DUT on core $dut_core"
        fact oneip "$("$ONEIP" --version)"
        fact nftables "$(nft --version 2>/dev/null || echo none)"
        fact dpdk "$(pkg-config --modversion libdpdk 2>/dev/null || dpkg-query -W -f '${Version}' dpdk 2>/dev/null || echo none)"
        fact ipvsadm "$(dpkg-query -W -f '${Version}' ipvsadm 2>/dev/null || echo none)"
        fact arguments "scripts/bench.sh $arguments"
        fact tolerance "$loss % of the frames sent"
        fact trial "$seconds s, of which one of up to $attempts at a rate must do so, since the host takes a core away now and then; latency $latency_seconds s"
        fact frames "$CLIENTS clients, order $order, UDP to one service of $SERVERS servers; sizes with FCS"
        for dut_ in "${ALL_DUTS[@]}"; do
            fact "dut $dut_" "$(if [[ -n ${left_out[$dut_]-} ]]; then echo "left out: ${left_out[$dut_]}"; else "unfair_${dut_//-/_}"; fi)"
        done
    } | jq -n '[inputs] | map({ (.[0]): .[1] }) | add' >"$report/facts.json"
    # Where this checkout lies says nothing to who reads it.
    sed "s|$PWD/||g; s|$work/||g" "$work/commands.txt" >"$report/commands.txt"
}

fact() { jq -n --arg name "$1" --arg value "$2" '[$name, $value]'; }

machine() {
    local kind
    kind=$(systemd-detect-virt --vm 2>/dev/null) || kind=$(if grep -q '^flags.* hypervisor' /proc/cpuinfo; then echo 'a virtual machine'; else echo none; fi)
    if grep -q 'QEMU TCG' /proc/cpuinfo; then kind='qemu, by software emulation'; fi
    echo "virtualisation: $kind"
}

# As the dispatcher said at its start: driver, transfer, mode.
engine() { sed -nE 's/^ +(interface|engine) +//p' "$work/oneip.err" | paste -sd'|' | sed 's/|/; /'; }

generator_text() {
    case $generator in
        oneip) echo "oneip pktgen" ;;
        pktgen) echo "the kernel's pktgen; frames are counted by the receiving interface; no latency but the dispatcher's own" ;;
        dpdk) echo "DPDK's testpmd, txonly: as fast as it goes; frames are counted by the receiving interface" ;;
    esac
}
